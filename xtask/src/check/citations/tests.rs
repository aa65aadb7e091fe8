use super::*;

const SEMANTICS: &str =
    "<a id=\"n1\"></a>\n**N1. Open.**\n\n<a id=\"n14\"></a>\n**N14. Left out.**\n\n<a id=\"d3\"></a>\n";
const THREAT: &str = "| <a id=\"a29\"></a>A29 | `a_spoofed_packet` |\n| <a id=\"f1\"></a>F1 | |\n";
const TEST: &str = "#[test]\nfn a_spoofed_packet() {}\n";

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

/// What the law says of one file beside both pages and the test that they name.
fn messages(path: &str, text: &str) -> Vec<String> {
    let mut sources = vec![source("tests/tests/spoof.rs", TEST)];
    let pages = [("docs/semantics.md", SEMANTICS), ("docs/threats.md", THREAT)];
    sources.extend(pages.iter().filter(|(page, _)| *page != path).map(|(page, text)| source(page, text)));
    sources.push(source(path, text));
    check(&sources).iter().map(ToString::to_string).collect()
}

#[test]
fn a_number_with_an_anchor_may_be_cited() {
    for (path, text) in [
        ("a.rs", "/// Blocks (N14), the node (D3), and what is spoofed (A29).\nconst X: &str = \"N1: open\";\n"),
        ("docs/adr/0001.md", "See N1 and F1.\n"),
        ("policies/shop.yaml", "# N14\na: 1\n"),
    ] {
        assert_eq!(messages(path, text), [""; 0], "{text}");
    }
}

#[test]
fn a_number_without_an_anchor_is_named_with_its_place() {
    for (path, text, message) in [
        ("a.rs", "fn f() {}\n/// (N2)\n", "a.rs:2: N2 has no anchor in docs/semantics.md"),
        ("a.rs", "fn f() { assert!(x, \"N1, C4\"); }\n", "a.rs:1: C4 has no anchor in docs/semantics.md"),
        ("README.md", "By D17.\n", "README.md:1: D17 has no anchor in docs/semantics.md"),
        ("docs/adr/0001.md", "\nN1-N3\n", "docs/adr/0001.md:2: N3 has no anchor in docs/semantics.md"),
        ("policies/shop.yaml", "# A30\n", "policies/shop.yaml:1: A30 has no anchor in docs/threats.md"),
        ("docs/semantics.md", "F2\n<a id=\"n1\"></a>\n", "docs/semantics.md:1: F2 has no anchor in docs/threats.md"),
        ("a.rs", "#[test]\nfn n14_n15_blocks() {}\n", "a.rs:2: N15 has no anchor in docs/semantics.md"),
        (
            "a.rs",
            "#[tokio::test(start_paused = true)]\nasync fn rights_n26() {}\n",
            "a.rs:2: N26 has no anchor in docs/semantics.md",
        ),
    ] {
        assert_eq!(messages(path, text), [message], "{text}");
    }
}

#[test]
fn an_attack_is_no_tier_of_tests() {
    let attack = "a.rs:1: T29 is no tier of tests; attacks have A numbers, in docs/threats.md";
    assert_eq!(messages("a.rs", "// T29: spoofed.\n"), [attack]);
    assert_eq!(messages("a.rs", "//! T0, T1, T2 and T3 are tiers.\n"), [""; 0]);
    assert_eq!(messages("README.md", "T4\n").len(), 1);
}

#[test]
fn what_only_looks_like_a_number_is_none() {
    for (path, text) in [
        ("a.rs", "fn f<T4, N9>(a: [u8; N9]) -> F32 { Number::N9; C99(D12) }\n"),
        ("a.rs", "// 0xA1, \\u{F0}, fd00::C4, x.N9, `N9`, `C0` and `C1` controls, N9x, _N9, N100, N09, AN9\n"),
        ("a.rs", "fn read_f64() {}\n#[test]\nfn t9_is_no_letter_of_ours_and_n100_no_number() {}\n"),
        ("README.md", "```yaml\nN9\n```\nand `T9`\n"),
        ("deploy/x.yaml", "# N9\n"),
        ("xtask/src/check/citations/mod.rs", "// N9\n"),
    ] {
        assert_eq!(messages(path, text), [""; 0], "{text}");
    }
    assert_eq!(messages("README.md", "```yaml\nN9\n```\nN9\n").len(), 1, "a fence ends");
}

#[test]
fn an_anchor_stands_once_and_on_its_page() {
    let twice = format!("{SEMANTICS}<a id=\"n1\"></a>\n");
    let message = "docs/semantics.md:8: the anchor n1 stands at docs/semantics.md:1 too";
    assert_eq!(messages("docs/semantics.md", &twice), [message]);
    let astray = format!("{SEMANTICS}<a id=\"a1\"></a>\n");
    assert_eq!(
        messages("docs/semantics.md", &astray),
        ["docs/semantics.md:8: the anchor a1 does not belong to this page"]
    );
    let row = format!("{THREAT}| <a id=\"a29\"></a>A29 | <a id=\"a2\"></a>A2 |\n");
    assert_eq!(
        messages("docs/threats.md", &row),
        ["docs/threats.md:3: the anchor a29 stands at docs/threats.md:1 too"]
    );
}

#[test]
fn the_design_is_not_cited_by_section() {
    for text in [
        "// (design: section 9)\n",
        "// By design section 6.\n",
        "// Section 7 of the design says so.\n",
        "// See design.md.\n",
        "// as in the design,\n// section 8\n",
        "// design 8\n",
    ] {
        let found = messages("a.rs", text);
        assert!(matches!(&found[..], [one] if one.contains("the design's sections")), "{text}: {found:?}");
    }
    for text in ["// RFC 9260 section 3.1\n", "// By design it has two.\n", "// The design of this section.\n"] {
        assert_eq!(messages("a.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn a_section_that_is_cited_exists() {
    for text in [
        "// (docs/threats.md, \"Faults\")\n",
        "// docs/threats.md,\n",
        "// See docs/threats.md, \"What is\n// safe\".\n",
    ] {
        let page = source("docs/threats.md", &format!("# Threats\n## Faults\n{THREAT}## What is safe\n"));
        let sources = [source("docs/semantics.md", SEMANTICS), source("t.rs", TEST), page, source("a.rs", text)];
        assert!(check(&sources).is_empty(), "{text}");
    }
    let missing = "a.rs:2: docs/threats.md has no section \"Faults\"";
    assert_eq!(messages("a.rs", "//\n// (docs/threats.md, \"Faults\")\n"), [missing]);
    let no_page = "a.rs:1: docs/none.md has no section \"Faults\"";
    assert_eq!(messages("a.rs", "const X: &str = r#\"docs/none.md, \"Faults\"\"#;\n"), [no_page]);
}

#[test]
fn a_test_that_a_threat_names_exists() {
    let gone = format!("{THREAT}| `a_test_that_was_renamed`, `CAP_BPF`, `a.b_c` |\n");
    assert_eq!(messages("docs/threats.md", &gone), ["docs/threats.md:3: there is no test a_test_that_was_renamed"]);
    assert_eq!(messages("docs/threats.md", &THREAT.replace("a_spoofed_packet", "spoofed_packet")).len(), 1);
    assert_eq!(messages("README.md", "`a_test_that_was_renamed`\n"), [""; 0]);
}
