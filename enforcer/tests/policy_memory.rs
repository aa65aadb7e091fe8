//! What hostile policy files of up to 8 MiB cost: an answer, without a panic, in less than 64 MiB.
//!
//! One test, since the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use enforcer::policy::source::directory::load;
use nix::time::{ClockId, clock_gettime};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may be there at once.
        grow(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;
const FILE: usize = 8 * MIB;

fn header(number: usize) -> String {
    format!("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}}}\nspec:\n")
}

/// Documents of `items` each, until the file has `total` of them or is full.
fn documents(per_document: usize, total: usize, open: &str, item: impl Fn(usize) -> String, close: &str) -> String {
    let mut text = String::with_capacity(FILE);
    for document in 0..total / per_document {
        let mut one = header(document) + "  podSelector: {}\n  " + open;
        for index in 0..per_document {
            one += &item(document * per_document + index);
        }
        one += close;
        if text.len() + one.len() > FILE {
            break;
        }
        text = text + &one + "\n";
    }
    text
}

fn repeated(start: &str, unit: &str) -> String {
    start.to_owned() + &unit.repeat((FILE - start.len()) / unit.len())
}

const RULES: &str = "ingress: [";
const PORTS: &str = "ingress: [{ports: [";
const PEERS: &str = "ingress: [{from: [";
const EXCEPT: &str = "ingress: [{from: [{ipBlock: {cidr: \"::/0\", except: [";
const LABELS: &str = "ingress: [{from: [{podSelector: {matchLabels: {";
const VALUES: &str = "ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [";

type Case = (&'static str, &'static str, fn() -> String);

/// Name, how the message begins or what it contains ("" for a file that is taken), and the text.
const CASES: &[Case] = &[
    ("rules", "", || documents(99_000, 198_000, RULES, |_| "{},".into(), "]")),
    ("rules of one document", "more than 100000", || repeated(&(header(0) + "  " + RULES), "{},")),
    ("rules of all documents", "more than 500000", || documents(90_000, 540_000, RULES, |_| "{},".into(), "]")),
    ("ports", "", || documents(99_000, 198_000, PORTS, |_| "{},".into(), "]}]")),
    ("named ports", "", || documents(33_000, 66_000, PORTS, |i| format!("{{port: abcdefgh-{i}}},"), "]}]")),
    ("peers", "", || documents(33_000, 99_000, PEERS, |_| "{podSelector: {}},".into(), "]}]")),
    ("addresses", "", || {
        documents(19_000, 95_000, PEERS, |i| format!("{{ipBlock: {{cidr: 10.0.0.0/{}}}}},", i % 32), "]}]")
    }),
    ("exceptions", "", || documents(99_000, 297_000, EXCEPT, |i| format!("fd00::{:x}/128,", i % 60_000), "]}}]}]")),
    ("masked exceptions", "", || {
        documents(99_000, 297_000, EXCEPT, |i| format!("fd00::{:x}/12,", i % 60_000), "]}}]}]")
    }),
    ("labels", "", || {
        documents(49_000, 49_000, LABELS, |i| format!("abcdefghijklmn{i}: abcdefghijklmn{i},"), "}}}]}]")
    }),
    ("too many labels", "more than 50000", || documents(40_000, 240_000, LABELS, |i| format!("a{i}: b,"), "}}}]}]")),
    ("values", "", || documents(99_000, 198_000, VALUES, |i| format!("a{i},"), "]}]}}]}]")),
    ("policies", "", || (0..20_000).map(|i| header(i) + "  podSelector: {}\n").collect()),
    ("bad policies", "too many errors", || repeated("", "---\nkind: x\n")),
    ("bad rules", "more errors", || documents(99_000, 99_000, PEERS, |_| "{},".into(), "]}]")),
    ("annotations", "more than 100000", || repeated(&(header(0) + "status: ["), "a,")),
    ("complex keys", "", || {
        let mut text = documents(1, 1, "ingress: []", |_| String::new(), "") + "status: {";
        for key in 0..20_000 {
            let _ = write!(text, "? [{key}] : [], ");
        }
        text + "}\n"
    }),
    ("markers", "", || repeated("", "---\n")),
    ("comments", "", || repeated("", "#\n")),
    ("a comment", "", || repeated("# ", "c")),
    ("one plain scalar", "expected a map", || repeated("", "a")),
    ("a folded scalar", "expected a map", || repeated("\"", "a\n\n") + "\""),
    // Another kind is skipped, and named by its first characters.
    ("a long kind", "", || repeated("apiVersion: a\nkind: ", "a")),
    ("a long name", "not a valid name", || header(0).replace("p0", &"a".repeat(FILE - 200)) + "  podSelector: {}\n"),
    ("a long value", "cannot be here", || {
        documents(1, 1, LABELS, |_| format!("a: {}", "é".repeat(FILE / 2 - 200)), "}}}]}]")
    }),
    ("a long key", "not valid YAML", || header(0) + "  " + &"a".repeat(FILE - 200) + ": b\n"),
    ("a long tag", "not valid YAML", || repeated("!", "a")),
    ("a line with an error at its end", "neither a port", || {
        documents(
            90_000,
            90_000,
            PORTS,
            |i| {
                if i < 89_999 { "{},".to_owned() + &" ".repeat(80) } else { "{port: A}".into() }
            },
            "]}]",
        )
    }),
    ("brackets", "levels deep", || repeated("", "[")),
    ("braces", "levels deep", || repeated("", "{a: ")),
    ("dashes", "levels deep", || repeated("a:\n  ", "- ")),
    ("indents", "levels deep", || {
        (0..4_000).fold(String::new(), |mut text, i| {
            let _ = writeln!(text, "{}a:", " ".repeat(i));
            text
        })
    }),
    ("anchors", "expand to too many", || repeated("a: [", "&a b,")),
    ("an anchor on everything", "expand to too many", || repeated("&a {b: [", "bbbbbbbbbb,")),
    ("aliases", "expand to too many", || repeated("a: &a [b, b, b, b, b, b, b, b]\nc: [", "*a,")),
    ("quotes", "expected a map", || repeated("'", "''") + "'"),
    ("carriage returns", "expected a map", || repeated("a", "\r")),
];

/// Of this thread, so that a busy machine fails no test.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock of this thread").into()
}

#[test]
fn hostile_files_cost_less_than_64_mib() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (name, expected, text) in CASES {
        let mut text = text();
        // Some cases close their last bracket behind the limit.
        text.truncate((0..=FILE.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap());
        let size = text.len();
        std::fs::write(directory.path().join("hostile.yaml"), text).unwrap();
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let start = cpu_time();
        let result = load(directory.path()).map_err(|errors| errors.to_string());
        let (took, grown) = (cpu_time().saturating_sub(start), PEAK.load(Ordering::Relaxed) - before);
        let ending = result.as_ref().map_or_else(|error| error.lines().next().unwrap(), |_| "taken");
        println!("{name}: {size} bytes, {} KiB, {took:?}: {ending}", grown >> 10);
        let is_expected = match &result {
            Ok(_) => expected.is_empty(),
            Err(error) => !expected.is_empty() && error.contains(expected) && error.len() < 64 << 10,
        };
        if !is_expected || grown >= 64 * MIB || took > Duration::from_secs(30) {
            wrong.push(format!("{name}: {} KiB, {took:?}: {:.1000}", grown >> 10, result.err().unwrap_or_default()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
