//! Every file in `errors` is refused, each with the whole message that stands in `snapshots`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::policy::load::{SourceFile, from_sources};

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/tests/errors");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Everything that is said about a text.
fn messages(name: &str, text: String) -> String {
    let path: Arc<str> = name.into();
    let refused = from_sources(vec![SourceFile { path, text: text.into() }]).expect_err(name);
    let mut messages = refused.to_string();
    for warning in refused.warnings() {
        write!(messages, "\n\n{warning}").unwrap();
    }
    messages
}

#[test]
fn each_bad_file_has_its_message() {
    let files = files();
    assert!(files.len() > 40);
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let messages = messages(&format!("{name}.yaml"), std::fs::read_to_string(&file).unwrap());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, messages);
        });
    }
}
