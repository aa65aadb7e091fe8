//! Directories as people and attackers leave them.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::flow_policy;
use crate::policy::load::{Loaded, from_sources};
use crate::policy::source::directory::{load, load_paths};

fn write(directory: &Path, path: &str, text: &str) {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn named(name: &str) -> String {
    flow_policy("  isolate: [ingress]").replace("name: web", &format!("name: {name}"))
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.set.policies.iter().map(|policy| format!("{} {}", policy.at, policy.name)).collect()
}

/// The message of a directory whose only bad entry `make` has made.
fn refused(make: impl FnOnce(&Path)) -> String {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "good.yaml", &named("good"));
    make(directory.path());
    load(directory.path()).unwrap_err().to_string()
}

fn tree() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, name) in
        [("b.yaml", "b"), ("sub/a.yml", "c"), ("a.yaml", "a"), ("sub.yaml", "d"), ("sub/deep/x.yaml", "e")]
    {
        write(directory.path(), path, &named(name));
    }
    for path in [
        "a.cases.yaml",
        "a.inventory.yaml",
        "sub/b.inventory.yml",
        "README.md",
        ".hidden.yaml",
        ".git/x.yaml",
        "x.yaml~",
    ] {
        write(directory.path(), path, "not: a policy");
    }
    directory
}

#[test]
fn a_tree_is_read_in_the_order_of_its_paths() {
    let directory = tree();
    let loaded = load(directory.path()).unwrap();
    assert_eq!(names(&loaded), ["a.yaml:4 a", "b.yaml:4 b", "sub.yaml:4 d", "sub/a.yml:4 c", "sub/deep/x.yaml:4 e"]);
    let again = from_sources(loaded.sources.to_vec()).unwrap();
    assert_eq!((&again.set, &again.sources), (&loaded.set, &loaded.sources));
    assert!(loaded.sources.iter().any(|source| &*source.path == "sub/a.yml" && *source.text == *named("c")));
}

#[test]
fn an_empty_directory_is_an_empty_set_and_a_missing_one_an_error() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "empty.yaml", "# nothing yet\n---\n");
    let empty = load(directory.path()).unwrap();
    assert_eq!((empty.set.policies.len(), empty.warnings.len()), (0, 1));
    assert_eq!(empty.warnings[0].what.to_string(), "no policy was read here");
    let missing = load(&directory.path().join("missing")).unwrap_err().to_string();
    assert!(missing.starts_with("error: the file or directory cannot be read: No such file or directory"), "{missing}");
    let file = load(&directory.path().join("empty.yaml")).unwrap_err().to_string();
    assert!(file.starts_with("error: this path is not a directory"), "{file}");
}

#[test]
fn paths_are_read_as_one_set_and_shown_as_given() {
    let directory = tree();
    let [file, sub] = ["b.yaml", "sub"].map(|name| directory.path().join(name));
    let loaded = load_paths(&[file.clone(), sub.clone()]).unwrap();
    let (file, sub) = (file.display(), sub.display());
    assert_eq!(names(&loaded), [format!("{file}:4 b"), format!("{sub}/a.yml:4 c"), format!("{sub}/deep/x.yaml:4 e")]);
}

#[test]
fn a_config_map_mount_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "..2026/shop.yaml", &named("shop"));
    symlink("..2026", directory.path().join("..data")).unwrap();
    symlink("..data/shop.yaml", directory.path().join("shop.yaml")).unwrap();
    assert_eq!(names(&load(directory.path()).unwrap()), ["shop.yaml:4 shop"]);
}

#[test]
fn a_duplicate_across_files_names_both_places() {
    let message = refused(|directory| write(directory, "later.yaml", &format!("# second\n{}", named("good"))));
    insta::assert_snapshot!(message, @r"
    error: FlowPolicy `default/good` is already declared at good.yaml:4
     --> later.yaml:5:9
      |
    5 |   name: good
      |         ^^^^
      |
      = help: rename or remove one of the two policies
    ");
    // Another kind or namespace is another policy.
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.yaml", &named("web"));
    write(directory.path(), "b.yaml", &named("web").replace("name: web", "name: web\n  namespace: shop"));
    write(directory.path(), "c.yaml", &super::network_policy("  podSelector: {}"));
    assert_eq!(load(directory.path()).unwrap().set.policies.len(), 3);
}

#[test]
fn every_bad_file_is_named() {
    let message = refused(|directory| {
        write(directory, "a.yaml", "apiVersion: v1\nkind: Lisst");
        write(directory, "sub/b.yaml", "a: [");
        fs::write(directory.join("c.yaml"), b"a: \xff").unwrap();
    });
    for line in ["--> a.yaml:2:7", "--> sub/b.yaml:1:4", "--> c.yaml"] {
        assert!(message.contains(line), "{message}");
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_hangs_nobody() {
    let message = refused(|directory| mkfifo(&directory.join("pipe.yaml"), Mode::S_IRWXU).unwrap());
    assert!(message.starts_with("error: this path is not a regular file\n--> pipe.yaml"), "{message}");
    for device in ["/dev/zero", "/dev/tty"] {
        let message = refused(|directory| symlink(device, directory.join("device.yaml")).unwrap());
        assert!(message.starts_with("error: this path is not a regular file\n--> device.yaml"), "{message}");
    }
    let socket =
        refused(|directory| drop(std::os::unix::net::UnixListener::bind(directory.join("socket.yaml")).unwrap()));
    assert!(socket.starts_with("error: this path is not a regular file\n--> socket.yaml"), "{socket}");
}

#[test]
fn links_to_nowhere_and_in_circles_are_refused() {
    let dangling = refused(|directory| symlink("gone", directory.join("team-a")).unwrap());
    assert!(
        dangling.starts_with("error: the file or directory cannot be read: No such file or directory"),
        "{dangling}"
    );
    assert!(dangling.ends_with("--> team-a"), "{dangling}");
    let to_itself = refused(|directory| symlink("self.yaml", directory.join("self.yaml")).unwrap());
    assert!(
        to_itself.starts_with("error: the file or directory cannot be read: Too many levels of symbolic links"),
        "{to_itself}"
    );
    let upwards = refused(|directory| {
        fs::create_dir(directory.join("sub")).unwrap();
        symlink("..", directory.join("sub/up")).unwrap();
    });
    assert!(
        upwards.starts_with("error: this symbolic link leads back to a directory above it\n--> sub/up"),
        "{upwards}"
    );
}

#[test]
fn names_that_would_break_a_line_are_refused() {
    for name in ["a\nb.yaml", "a\x1b[2J.yaml"] {
        let message = refused(|directory| write(directory, name, &named("web")));
        assert!(message.starts_with("error: the file name is not plain text\n--> a\u{fffd}"), "{message:?}");
        assert!(!message.contains('\x1b') && message.lines().count() == 3, "{message:?}");
    }
}

#[test]
fn an_unreadable_file_is_refused() {
    if nix::unistd::geteuid().is_root() {
        // Root reads everything; a directory that cannot be listed is the same branch for it.
        let message = refused(|directory| symlink("/proc/self/mem/x", directory.join("a.yaml")).unwrap());
        assert!(message.starts_with("error: the file or directory cannot be read: Not a directory"), "{message}");
        return;
    }
    let message = refused(|directory| {
        write(directory, "a.yaml", &named("web"));
        fs::set_permissions(directory.join("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    });
    assert!(message.starts_with("error: the file or directory cannot be read: Permission denied"), "{message}");
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_what_it_looks_like() {
    let text = "# \u{e9}\nkind: NetworkPolicy\n";
    let utf_16 = |mark: u16, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        [mark].into_iter().chain(text.encode_utf16()).flat_map(bytes).collect()
    };
    let latin_1: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
    let said = |bytes: &[u8]| refused(|directory| fs::write(directory.join("a.yaml"), bytes).unwrap());
    insta::assert_snapshot!(said(&utf_16(0xfeff, u16::to_le_bytes)), @r"
    error: the file is not UTF-8: it looks like UTF-16
    --> a.yaml
     = help: save the file as UTF-8 text, for example with `iconv -f UTF-16 -t UTF-8 FILE > NEW`
    ");
    assert_eq!(said(&utf_16(0xfeff, u16::to_le_bytes)), said(&utf_16(0xfeff, u16::to_be_bytes)));
    insta::assert_snapshot!(said(&latin_1), @r"
    error: the file is not UTF-8: the byte 0xE9 in line 1 looks like Latin-1 or Windows-1252
    --> a.yaml
     = help: save the file as UTF-8 text, for example with `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`
    ");
    let unmarked: Vec<u8> = "kind: x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(said(&unmarked).contains("this may be UTF-16"), "{}", said(&unmarked));
}

#[test]
fn a_file_over_8_mib_is_refused_unread() {
    let big = |bytes| {
        refused(|directory| {
            let file = File::create(directory.join("big.yaml")).unwrap();
            file.set_len(bytes).unwrap();
        })
    };
    insta::assert_snapshot!(big((8 << 20) + 1), @r"
    error: the file is larger than 8388608 bytes
    --> big.yaml
     = help: split the file into several files
    ");
    assert!(big(8 << 20).starts_with("error: the character U+0000"), "one of just 8 MiB is read");
}
