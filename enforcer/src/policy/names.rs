//! Checks names, label keys, label values and port names by the rules of Kubernetes.
//!
//! Input: text. Output: whether it is valid.

/// Whatever a workload or its namespace may be called: what `workload` takes from an inventory and from a runtime.
pub(super) fn is_any_name(text: &str) -> bool {
    is_framed(text, 253, is_in_any_name, is_in_any_name)
}

fn is_in_any_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A DNS-1123 label: the name of a namespace in Kubernetes.
pub(super) fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    is_framed(text, 63, alphanumeric, |byte| alphanumeric(byte) || byte == b'-')
}

/// A DNS-1123 subdomain: the name of an object.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    // A part may be longer than a DNS label, as long as the whole is not.
    let part = |part: &str| is_framed(part, 253, alphanumeric, |byte| alphanumeric(byte) || byte == b'-');
    text.len() <= 253 && text.split('.').all(part)
}

/// A qualified name: the key of a label.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_name(text),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_name(name),
    }
}

/// The value of a label; it may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

/// An IANA service name: the name of a port.
pub(super) fn is_port_name(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    is_framed(text, 15, alphanumeric, |byte| alphanumeric(byte) || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--")
}

fn is_label_name(text: &str) -> bool {
    is_framed(
        text,
        63,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

/// Whether `text` has 1 to `longest` bytes, of which the first and last are `edge` and the others `inner`.
fn is_framed(text: &str, longest: usize, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && bytes.first().is_some_and(|&byte| edge(byte))
        && bytes.last().is_some_and(|&byte| edge(byte))
        && bytes.iter().all(|&byte| inner(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dns_1123() {
        let (longest_label, longest_name) = ("a".repeat(63), "a".repeat(253));
        for legal in ["a", "0", "a-b", "web-1", longest_label.as_str()] {
            assert!(is_dns_label(legal), "{legal}");
            assert!(is_dns_subdomain(legal), "{legal}");
        }
        for legal in ["a.b", "a-b.c1", longest_name.as_str()] {
            assert!(!is_dns_label(legal) && is_dns_subdomain(legal), "{legal}");
        }
        let too_long = "a".repeat(254);
        for illegal in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a.", "ä", "a b", "a\n", "a/b", too_long.as_str()] {
            assert!(!is_dns_label(illegal) && !is_dns_subdomain(illegal), "{illegal}");
        }
    }

    #[test]
    fn any_name_of_a_workload_is_one_word() {
        let (longest, too_long) = ("_".repeat(253), "a".repeat(254));
        for legal in ["a", "my_shop", "_", "-", "Shop.EU_", "9.", longest.as_str()] {
            assert!(is_any_name(legal), "{legal}");
        }
        for illegal in ["", "a b", "a/b", "a\n", "\u{e4}", "a*", too_long.as_str()] {
            assert!(!is_any_name(illegal), "{illegal}");
        }
    }

    #[test]
    fn label_keys_may_have_one_dns_prefix() {
        for legal in ["app", "App_1.x", "kubernetes.io/metadata.name", "a/b", "0"] {
            assert!(is_label_key(legal), "{legal}");
        }
        for illegal in ["", "/a", "a/", "a/b/c", "A/b", "-a", "a-", "a b", "ä"] {
            assert!(!is_label_key(illegal), "{illegal}");
        }
        assert!(is_label_key(&"a".repeat(63)) && !is_label_key(&"a".repeat(64)));
    }

    #[test]
    fn label_values_may_be_empty() {
        for legal in ["", "a", "1.2_3-B"] {
            assert!(is_label_value(legal), "{legal}");
        }
        for illegal in ["-", "a-", "a/b", " ", "ä"] {
            assert!(!is_label_value(illegal), "{illegal}");
        }
        assert!(is_label_value(&"a".repeat(63)) && !is_label_value(&"a".repeat(64)));
    }

    #[test]
    fn port_names_need_a_letter() {
        for legal in ["http", "a", "serve-80-tcp", "8a", "fifteen-letters"] {
            assert!(is_port_name(legal), "{legal}");
        }
        for illegal in ["", "80", "a--b", "-a", "a-", "Http", "a.b", "sixteen-letters1"] {
            assert!(!is_port_name(illegal), "{illegal}");
        }
    }
}
