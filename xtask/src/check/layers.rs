//! The import law: data flows one way through `enforcer`, and a packet one way through `enforcer-common`.
//!
//! Input: their sources. Output: each import against the flow.
//! Unit tests are free: they may make their input with any stage.

use std::path::{Component, Path};

use crate::{check::Violation, source::Source};

/// A stage and what it may import of its siblings; a path admits everything below it.
const LAW: &[(&str, &[&str])] = &[
    // The text of an error with its causes: whoever tells people of an error may use it.
    ("causes", &[]),
    // Ticks when a file may have changed, and reads it whole: any source may read files.
    ("watch", &[]),
    // What the Kubernetes API says, trimmed to what the source needs that asks.
    ("kubernetes", &["causes"]),
    ("policy", &["watch", "kubernetes"]),
    ("workload", &["watch", "kubernetes", "causes"]),
    ("resolve", &["policy", "workload"]),
    ("compile", &["resolve", "policy::model", "workload::model"]),
    ("plan", &["compile::image", "workload::model"]),
    ("kernel", &["compile::image", "plan"]),
    ("flow", &["workload", "resolve", "policy::model", "policy::origin"]),
    // A network for the demo and the tests: no part of enforcement.
    ("lab", &[]),
    // Told by the agent: what comes in by HTTP reaches nobody.
    ("serve", &[]),
    // Told by the agent too: what is written into the API.
    ("publish", &["kubernetes"]),
    // Folds what all agents have written there, and is told by nobody.
    ("controller", &["kubernetes", "policy::schema", "publish", "flow::text"]),
    // Settings hold plain values; the agent hands them on.
    ("config", &[]),
];

/// These know all others.
const FREE: &[&str] = &["agent", "cli", "lib", "main"];

/// The modules of `enforcer-common`. Each may import those that stand before it, so no two import each other.
const ORDER: &[&str] = &[
    // Numbers and layouts.
    "atomic",
    "opaque",
    "limits",
    "id",
    "side",
    "home",
    "verdict",
    "image",
    "packet",
    "flow_state",
    "flow_key",
    "half_open",
    "endpoint",
    "quota",
    "sweep",
    // A packet comes from the last of these and gets its verdict in the first.
    "work",
    "tables",
    "follow",
    "decide",
    "link",
    "hygiene",
    "judge",
    "icmp_error",
    "live",
    "datapath",
    // Or it is of no workload.
    "guard",
    // Or it comes by once more, behind the node's translation.
    "translated",
    // What becomes of a denied one.
    "denial",
    "event",
    // What is pinned of all this.
    "schema",
    "pod",
];

pub(crate) fn check(source: &Source) -> Vec<Violation> {
    match source.path.strip_prefix("enforcer-common/src") {
        Ok(inside) => check_order(source, inside),
        Err(_) => check_stage(source),
    }
}

fn check_order(source: &Source, inside: &Path) -> Vec<Violation> {
    let module = stage(inside);
    if module == "lib" {
        return Vec::new();
    }
    let Some(place) = ORDER.iter().position(|name| *name == module) else {
        return vec![
            source.violation(1, format!("no place for the module {module}: add it to xtask/src/check/layers.rs")),
        ];
    };
    let code = source.code_without_tests();
    let mut violations = Vec::new();
    for (at, import) in imports(&code, inside, &|first| ORDER.contains(&first)) {
        let first = import.split("::").next().unwrap_or_default();
        if ORDER[place + 1..].contains(&first) {
            let line = code[..at].matches('\n').count() + 1;
            violations.push(source.violation(line, format!("{module} imports {first}, which comes after it")));
        }
    }
    violations
}

fn check_stage(source: &Source) -> Vec<Violation> {
    let Ok(inside) = source.path.strip_prefix("enforcer/src") else {
        return Vec::new();
    };
    let stage = stage(inside);
    if FREE.contains(&stage.as_str()) {
        return Vec::new();
    }
    let Some((_, allowed)) = LAW.iter().find(|(name, _)| *name == stage) else {
        return vec![
            source.violation(1, format!("no import law for the module {stage}: add it to xtask/src/check/layers.rs")),
        ];
    };
    let code = source.code_without_tests();
    let mut violations = Vec::new();
    for (at, import) in imports(&code, inside, &is_stage) {
        let admitted = |path: &&str| import == **path || import.starts_with(&format!("{path}::"));
        let own = import == stage || import.starts_with(&format!("{stage}::"));
        if !own && is_module(&import) && !allowed.iter().any(admitted) {
            let line = code[..at].matches('\n').count() + 1;
            let allowed = if allowed.is_empty() { "no sibling".to_owned() } else { allowed.join(", ") };
            violations.push(source.violation(line, format!("{stage} imports {import}; it may import {allowed}")));
        }
    }
    violations
}

/// The first part of the path below `src`, without the extension.
fn stage(inside: &Path) -> String {
    let first = inside.components().next().map(Component::as_os_str).unwrap_or_default();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Types and macros of the crate's root are not stages.
fn is_module(import: &str) -> bool {
    import.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Each path from the crate's root with the place where it stands; groups in braces are taken apart.
/// `is_module` tells the names that can follow a chain of `super` up to the root.
fn imports(code: &str, inside: &Path, is_module: &dyn Fn(&str) -> bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in roots(inside) {
        // A chain of `super` reaches the crate's root or, out of an inner module, only the stage's: a stage's name tells.
        let relative = root.starts_with("super");
        for (at, _) in code.match_indices(root.as_str()) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            expand(&code[at + root.len()..], "", &mut |path| {
                if !relative || is_module(path.split("::").next().unwrap_or_default()) {
                    found.push((at, path));
                }
            });
        }
    }
    found
}

fn is_stage(name: &str) -> bool {
    LAW.iter().any(|(stage, _)| *stage == name) || FREE.contains(&name)
}

/// How this file can write the crate's root; the longer chains of `super` stand in inner modules.
fn roots(inside: &Path) -> Vec<String> {
    let is_module_file = inside.file_name().is_some_and(|name| name == "mod.rs");
    let depth = inside.components().count() - usize::from(is_module_file);
    let supers = (depth..depth + 3).map(|count| "super::".repeat(count));
    ["crate::", "enforcer::"].into_iter().map(str::to_owned).chain(supers).collect()
}

/// Reads `a::b`, `{a::b, c::{d, e}}` after `prefix` and calls `found` with each whole path. Returns what was read.
fn expand(text: &str, prefix: &str, found: &mut dyn FnMut(String)) -> usize {
    let mut path = prefix.to_owned();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        at += rest.len() - rest.trim_start().len();
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            while let Some(c) = text[at..].chars().next() {
                at += match c {
                    '}' => return at + 1,
                    ',' => 1,
                    c if c.is_whitespace() => c.len_utf8(),
                    _ => expand(&text[at..], &path, found).max(c.len_utf8()),
                };
            }
            return at;
        }
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '#').collect();
        at += word.len();
        path.push_str(&word);
        if word.is_empty() || !text[at..].starts_with("::") {
            if !word.is_empty() || !prefix.is_empty() {
                found(path.trim_end_matches("::").to_owned());
            }
            return at;
        }
        path.push_str("::");
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.into(), text: text.into() };
        check(&source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_stage_is_held_to_its_own_row() {
        let crossing = [
            ("enforcer/src/policy/parse.rs", "use crate::workload::model::Labels;"),
            ("enforcer/src/workload/store.rs", "use crate::policy::model::Policy;"),
            ("enforcer/src/resolve/peers.rs", "use crate::compile::image;"),
            ("enforcer/src/compile/classes.rs", "use crate::kernel::tables;"),
            ("enforcer/src/compile/classes.rs", "use crate::policy::parse;"),
            ("enforcer/src/kernel/tables.rs", "use crate::compile::classes::Classes;"),
            ("enforcer/src/kernel/tables.rs", "use crate::resolve::Resolved;"),
            ("enforcer/src/plan/intent.rs", "use crate::compile::compile;"),
            ("enforcer/src/plan/incarnation/mod.rs", "use crate::kernel::KernelError;"),
            ("enforcer/src/compile/image.rs", "use crate::plan::Plan;"),
            ("enforcer/src/flow/enrich.rs", "use crate::kernel::events::Event;"),
            ("enforcer/src/config.rs", "use crate::policy::model::Policy;"),
            ("enforcer/src/kubernetes/follow.rs", "use crate::policy::model::Policy;"),
            ("enforcer/src/flow/enrich.rs", "use crate::agent::Agent;"),
            ("enforcer/src/serve/http.rs", "use crate::kernel::Kernel;"),
        ];
        for (path, text) in crossing {
            let messages = messages(path, text);
            assert_eq!(messages.len(), 1, "{path}: {text}: {messages:?}");
        }
    }

    #[test]
    fn imports_along_the_flow_pass() {
        let along = [
            ("enforcer/src/policy/parse.rs", "use crate::policy::{error::InvalidPolicy, model::Policy};"),
            ("enforcer/src/policy/parse.rs", "use super::model::Policy; use enforcer_common::id::WorkloadId;"),
            ("enforcer/src/resolve/peers.rs", "use crate::{policy::model::Policy, workload::store::Snapshot};"),
            ("enforcer/src/compile/image.rs", "use crate::{policy::model::Port, resolve::ResolvedPolicy};"),
            ("enforcer/src/plan/intent.rs", "use crate::{compile::image::Image, workload::model::Snapshot};"),
            ("enforcer/src/kernel/apply.rs", "use crate::plan::Plan;"),
            ("enforcer/src/kernel/tables.rs", "use crate::compile::image::Image;"),
            ("enforcer/src/flow/enrich.rs", "use crate::policy::{model::Source, origin::Origin};"),
            ("enforcer/src/agent.rs", "use crate::{policy, kernel, flow, compile};"),
            ("enforcer/src/cli/explain.rs", "use crate::{policy, kernel};"),
            ("enforcer-ebpf/src/main.rs", "use crate::policy;"),
        ];
        for (path, text) in along {
            assert_eq!(messages(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn every_way_to_write_a_path_is_seen() {
        let ways = [
            "use crate::{\n    policy::model,\n    workload::{self, model::Labels},\n};",
            "use crate::{workload};",
            "fn f(labels: &crate::workload::model::Labels) {}",
            "use super::super::workload::model;",
            "mod inner { use super::super::super::workload::model; }",
            "pub(crate) use crate :: workload; use crate::workload as w;",
            "use enforcer::workload::store;",
        ];
        for text in ways {
            let messages = messages("enforcer/src/policy/parse.rs", text);
            assert!(messages.iter().any(|message| message.contains("policy imports workload")), "{text}: {messages:?}");
        }
    }

    #[test]
    fn the_line_is_named() {
        assert_eq!(
            messages("enforcer/src/policy/parse.rs", "//! Job.\n\nuse std::fmt;\nuse crate::workload;\n"),
            ["enforcer/src/policy/parse.rs:4: policy imports workload; it may import watch, kubernetes"]
        );
    }

    #[test]
    fn the_line_is_named_where_the_path_begins_it() {
        let messages = messages("enforcer/src/policy/parse.rs", "\n\ncrate::workload::f!();\n");
        assert!(messages[0].starts_with("enforcer/src/policy/parse.rs:3:"), "{messages:?}");
    }

    #[test]
    fn comments_and_unit_tests_are_free() {
        let text = "// crate::workload\n#[cfg(test)]\nmod tests { use crate::workload::model::Labels; }\n";
        assert_eq!(messages("enforcer/src/policy/parse.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_module_of_enforcer_common_imports_what_stands_before_it() {
        for (path, text, message) in [
            ("decide.rs", "use crate::tables::PolicyTables;", None),
            ("decide.rs", "use crate::image::{self, Image};", None),
            ("decide.rs", "\nuse crate::datapath::run;", Some(":2: decide imports datapath, which comes after it")),
            ("decide.rs", "use crate::{id::Row, judge};", Some(":1: decide imports judge, which comes after it")),
            ("judge/mod.rs", "use super::datapath;", Some(":1: judge imports datapath, which comes after it")),
            ("judge/role.rs", "use super::state::Flow; use crate::judge::state;", None),
            ("shortcut.rs", "", Some(":1: no place for the module shortcut: add it to xtask/src/check/layers.rs")),
            ("lib.rs", "pub mod datapath;", None),
        ] {
            let path = format!("enforcer-common/src/{path}");
            let expected: Vec<String> = message.map(|message| format!("{path}{message}")).into_iter().collect();
            assert_eq!(messages(&path, text), expected, "{text}");
        }
    }

    #[test]
    fn a_module_without_a_row_is_a_violation() {
        let messages = messages("enforcer/src/shortcut/mod.rs", "");
        assert!(messages[0].contains("no import law for the module shortcut"), "{messages:?}");
    }
}
