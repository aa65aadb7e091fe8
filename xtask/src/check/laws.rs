//! The other laws of the sources: length, and where `unsafe` may stand. Input: a source. Output: its violations.

use crate::{check::Violation, source::Source};

/// A longer file holds two nouns.
const MAXIMUM_LINES: usize = 500;

/// The only places for `unsafe`. A directory admits everything below it.
const UNSAFE: &[&str] = &[
    // Atomic instructions and values that the verifier must not see through, on the bpf target.
    "enforcer-common/src/atomic.rs",
    "enforcer-common/src/opaque.rs",
    // `unsafe impl aya::Pod` and nothing else.
    "enforcer-common/src/pod.rs",
    // Every helper call and every map access of the bpf programs.
    "enforcer-ebpf/src/",
    // The bpf system call, and maps as memory.
    "enforcer/src/kernel/tables/mmap.rs",
    "enforcer/src/kernel/sys/",
    // A setting of the C library's allocator.
    "enforcer/src/agent/memory.rs",
    // A lease of a file, which no crate has.
    "enforcer/src/watch/lease.rs",
    // A socket option and a control message that no crate has.
    "enforcer/src/workload/netlink/listen.rs",
    // A counting allocator, and dropped capabilities.
    "enforcer/tests/policy_memory.rs",
    "enforcer/tests/workload_netlink.rs",
    // A program on a timer.
    "enforcer/tests/kernel_grace.rs",
    // Raw sockets, system calls and loaded programs.
    "tests/",
];

pub(crate) fn length(source: &Source) -> Vec<Violation> {
    let lines = source.text.lines().count();
    if lines <= MAXIMUM_LINES {
        return Vec::new();
    }
    vec![source.violation(lines, format!("{lines} lines; the most is {MAXIMUM_LINES}: split it with two good names"))]
}

pub(crate) fn unsafety(source: &Source) -> Vec<Violation> {
    if UNSAFE.iter().any(|path| source.path.starts_with(path)) {
        return Vec::new();
    }
    let code = source.code();
    let has_word = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    let lines = code.lines().enumerate().filter(|(_, line)| has_word(line));
    lines.map(|(index, _)| source.violation(index + 1, "`unsafe` outside the files that may have it".into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_file_may_have_500_lines_and_no_more() {
        assert_eq!(length(&source("a.rs", &"x\n".repeat(500))).len(), 0);
        assert_eq!(length(&source("a.rs", &"x\n".repeat(501))).len(), 1);
    }

    #[test]
    fn unsafe_stands_in_few_files() {
        let text = "//! unsafe\n#![forbid(unsafe_code)]\nfn f() { unsafe { g() } }\n";
        let found: Vec<String> =
            unsafety(&source("enforcer/src/policy/parse.rs", text)).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["enforcer/src/policy/parse.rs:3: `unsafe` outside the files that may have it"]);
        assert_eq!(unsafety(&source("enforcer-common/src/decide.rs", "unsafe impl Pod for A {}")).len(), 1);
        for path in ["enforcer-common/src/pod.rs", "enforcer/src/kernel/sys/mod.rs", "enforcer-ebpf/src/context.rs"] {
            assert_eq!(unsafety(&source(path, text)).len(), 0, "{path}");
        }
    }
}
