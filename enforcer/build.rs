//! Embeds the bpf object. Input: what `cargo xtask build-ebpf` made, or the file that `ENFORCER_BPF_OBJECT_FROM` names.
//! Output: a copy in `OUT_DIR` whose path the crate reads as `env!("ENFORCER_BPF_OBJECT")`, for example in
//! `aya::include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT"))`. Without an object the copy is a stub of zero bytes, so
//! that the workspace builds without a bpf compiler; the loader refuses the stub by name.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ENFORCER_BPF_OBJECT_FROM");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    let embedded = out.join("enforcer.o");
    let object = match env::var_os("ENFORCER_BPF_OBJECT_FROM") {
        // Named on purpose: a missing file is an error, not a stub.
        Some(file) => {
            println!("cargo:rerun-if-changed={}", Path::new(&file).display());
            fs::read(&file)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", Path::new(&file).display())))?
        }
        None => built_object(&out)?,
    };
    fs::write(&embedded, object)?;
    println!("cargo:rustc-env=ENFORCER_BPF_OBJECT={}", embedded.display());
    Ok(())
}

/// The object of `cargo xtask build-ebpf` in the target directory of this build; empty where there is none.
fn built_object(out: &Path) -> io::Result<Vec<u8>> {
    let directory = target_directory(out)?.join("bpf/object");
    // Watched as a directory and made here: cargo runs a build script again and again that watches a missing path.
    fs::create_dir_all(&directory)?;
    println!("cargo:rerun-if-changed={}", directory.display());
    match fs::read(directory.join("enforcer.o")) {
        Ok(object) => Ok(object),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("cargo:warning=no bpf object: this build cannot enforce; `cargo xtask build-ebpf` makes one");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// `OUT_DIR` is `TARGET/PROFILE/build/PACKAGE-HASH/out`, with the triple before the profile if `--target` was given.
fn target_directory(out: &Path) -> io::Result<PathBuf> {
    let triple = env::var("TARGET").map_err(io::Error::other)?;
    let build = out.ancestors().find(|path| path.file_name().is_some_and(|name| name == "build"));
    let above = build.and_then(Path::parent).and_then(Path::parent);
    let above = above.ok_or_else(|| io::Error::other(format!("unknown layout: {}", out.display())))?;
    let with_triple = above.file_name().is_some_and(|name| name == triple.as_str());
    Ok(if with_triple { above.parent().unwrap_or(above) } else { above }.to_path_buf())
}
