//! Whether a process of a cluster is still the same. Input: /proc. Output: when a process started, if it is alive.

use std::fs;

/// When the process started, in ticks since boot: with it, an id that was given a second time is told from the first.
/// `None` if it is gone, or is a zombie.
pub(crate) fn started(pid: u32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<u64> {
    // The command stands in parentheses, and may have some in it.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // proc_pid_stat(5) counts from 1, and the state is the third.
    rest.nth(22 - 4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2048 1\n";
        assert_eq!(parse(stat), Some(4711));
        assert_eq!(parse(&stat.replace(") S", ") Z")), None);
        assert!(started(std::process::id()).is_some());
        assert_eq!(started(4_194_305), None, "above the highest id of Linux");
    }
}
