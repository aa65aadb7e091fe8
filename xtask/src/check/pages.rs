//! The pages law: what a page points to is there. Input: the Markdown pages. Output: each link between files of the
//! repository that leads to no file or to no anchor, and each name that the glossary puts where the code does not have it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::check::Violation;

const GLOSSARY: &str = "docs/glossary.md";

/// Checks every page of the root and below `docs`, and prints what is wrong.
pub(crate) fn run(root: &Path) -> Result<()> {
    let violations = check(root)?;
    for violation in &violations {
        println!("{violation}");
    }
    ensure!(violations.is_empty(), "{} violations", violations.len());
    Ok(())
}

fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for page in pages(root)? {
        let text = read(&root.join(&page))?;
        for (line, target) in links(&text) {
            if let Some(message) = broken(root, &page, &text, target)? {
                violations.push(Violation { path: page.clone(), line, message });
            }
        }
        if page == Path::new(GLOSSARY) {
            violations.extend(strangers(root, &text)?);
        }
    }
    Ok(violations)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Relative to the root, in order.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = files(root, "md", false)?;
    if root.join("docs").is_dir() {
        found.extend(files(&root.join("docs"), "md", true)?);
    }
    let mut pages: Vec<PathBuf> =
        found.iter().filter_map(|path| Some(path.strip_prefix(root).ok()?.to_path_buf())).collect();
    pages.sort();
    Ok(pages)
}

fn files(directory: &Path, extension: &str, below: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && below {
            found.extend(files(&path, extension, below)?);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Lines outside fenced blocks, numbered from 1.
fn unfenced(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// Targets of links with their lines. A target has no blanks, so no line break is in one.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    unfenced(text).flat_map(|(number, line)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(move |(target, _)| (number, target))
    })
}

/// Why a link leads nowhere.
fn broken(root: &Path, page: &Path, text: &str, target: &str) -> Result<Option<String>> {
    if target.contains("://") {
        return Ok(None);
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = root.join(page).with_file_name("").join(file);
    if !file.is_empty() && !path.exists() {
        return Ok(Some(format!("`{target}` leads to no file")));
    }
    let has_anchor = match (file, anchor) {
        (_, "") => true,
        ("", _) => anchors(text).contains(anchor),
        _ => anchors(&read(&path)?).contains(anchor),
    };
    Ok((!has_anchor).then(|| format!("`{target}` leads to no heading and no anchor")))
}

/// Headings as GitHub makes anchors of them, and anchors that are written out.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in unfenced(text) {
        if line.starts_with('#') {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            anchors.insert(heading.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect());
        }
        anchors.extend(line.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    anchors
}

/// Names of the glossary that are not where it says: "(`A` and `B` in [`x.rs`](../x.rs))" or "(`A` in `crate`)".
fn strangers(root: &Path, text: &str) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let mut known = BTreeMap::new();
    let mut line = 1;
    for paragraph in text.split("\n\n") {
        let flat = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let inside = flat.split("(`").skip(1).filter_map(|rest| rest.split(')').next());
        for (names, place) in inside.filter_map(|inside| inside.split_once(" in ")) {
            let (place, path) = match place.split_once("](") {
                Some((_, target)) => (target, root.join("docs").join(target)),
                None => (place, root.join(place.trim_matches('`')).join("src")),
            };
            if !known.contains_key(&path) {
                known.insert(path.clone(), words(&path)?);
            }
            let words = &known[&path];
            for name in names.split('`').step_by(2).filter(|name| !name.is_empty() && !words.contains(*name)) {
                let message = format!("there is no `{name}` in {place}");
                violations.push(Violation { path: GLOSSARY.into(), line, message });
            }
        }
        line += paragraph.matches('\n').count() + 2;
    }
    Ok(violations)
}

/// Words of a file, or of all Rust below a directory. What is not there has none: the link to it is a violation of its own.
fn words(path: &Path) -> Result<BTreeSet<String>> {
    let files = if path.is_dir() { files(path, "rs", true)? } else { vec![path.to_path_buf()] };
    let mut words = BTreeSet::new();
    for file in files.iter().filter(|file| file.exists()) {
        let text = read(file)?;
        words.extend(text.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(pages: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in pages {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(root.path()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_leads_to_a_file_and_an_anchor() {
        let flow_log = ("docs/flow-log.md", "# The flow log\n\n## `--flow-log`, and more\n<a id=\"n1\"></a>\n");
        let links = "See [a](docs/flow-log.md), [b](docs/flow-log.md#the-flow-log) and [c](#top) there.\n# Top\n\
                     [d](docs/flow-log.md#--flow-log-and-more) [e](docs/flow-log.md#n1) [f](https://a.b/c#d) [g](docs)\n\
                     ```\n[h](none.md)\n```\n";
        assert_eq!(messages(&[("README.md", links), flow_log]), [""; 0]);
        let broken = "x\n[a](docs/none.md) [b](docs/flow-log.md#n2)\n[c](#n1)\n```\n# n1\n```\n";
        assert_eq!(
            messages(&[("README.md", broken), flow_log, ("docs/adr/1.md", "[a](flow-log.md)")]),
            [
                "README.md:2: `docs/none.md` leads to no file",
                "README.md:2: `docs/flow-log.md#n2` leads to no heading and no anchor",
                "README.md:3: `#n1` leads to no heading and no anchor",
                "docs/adr/1.md:1: `flow-log.md` leads to no file",
            ]
        );
    }

    #[test]
    fn the_glossary_names_what_the_code_has() {
        let page = "# Glossary\n\n**Way.** A way (`Way` and\n`Slot` in [`a.rs`](../common/src/a.rs)). One (`Way`), and (`ways`\nin \
                    `common`).\n\n**Row.** A row (`Row` in [`src`](../common/src)).\n";
        let code = ("common/src/deep/b.rs", "pub struct Row; // all ways\n");
        assert_eq!(messages(&[(GLOSSARY, page), ("common/src/a.rs", "struct Way; struct Slot;"), code]), [""; 0]);
        assert_eq!(
            messages(&[
                (GLOSSARY, page),
                ("common/src/a.rs", "struct Ways;"),
                ("common/src/deep/b.rs", "struct Rows;")
            ]),
            [
                "docs/glossary.md:3: there is no `Way` in ../common/src/a.rs",
                "docs/glossary.md:3: there is no `Slot` in ../common/src/a.rs",
                "docs/glossary.md:3: there is no `ways` in `common`",
                "docs/glossary.md:7: there is no `Row` in ../common/src",
            ]
        );
    }
}
