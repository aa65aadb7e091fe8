//! The demo's table.
//!
//! Input: what the connections, the flow log and the policies say. Output: text, which marks each row on which they disagree.

use comfy_table::{ContentArrangement, Table, presets};

/// What became of one kind of connection, in both families.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row {
    /// Who asked.
    pub(super) from: String,
    /// Whom, and which port.
    pub(super) to: String,
    /// How many of the tries were connected, of how many.
    pub(super) connected: (usize, usize),
    /// How many tries the flow log says were denied, and why by which line.
    pub(super) denied: (usize, String),
    /// The rule that allows it, if one does.
    pub(super) allowed_by: Option<String>,
}

impl Row {
    /// Connections, flow log and policies say the same.
    pub(super) fn agrees(&self) -> bool {
        let (connected, tries) = self.connected;
        match &self.allowed_by {
            Some(_) => connected == tries && self.denied.0 == 0,
            None => connected == 0 && self.denied.0 == tries,
        }
    }
}

/// The table and a line that sums it up.
pub(super) fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["from", "to", "connections", "decided by"]);
    for row in rows {
        let (connected, tries) = row.connected;
        let result = match (row.agrees(), connected) {
            (true, 0) => "DENIED".to_owned(),
            (true, _) => "allowed".to_owned(),
            (false, _) => format!("MISMATCH: {connected} of {tries} connected, {} logged as denied", row.denied.0),
        };
        let decided = row.allowed_by.as_ref().unwrap_or(&row.denied.1);
        table.add_row([&row.from, &row.to, &result, decided]);
    }
    let agree = rows.iter().filter(|row| row.agrees()).count();
    format!("{table}\n{agree} of {} as the policies say; each over IPv4 and IPv6\n", rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(connected: usize, denied: usize, allowed: bool) -> Row {
        Row {
            from: "shop/web".to_owned(),
            to: "shop/api:8081/tcp".to_owned(),
            connected: (connected, 2),
            denied: (denied, "no-rule".to_owned()),
            allowed_by: allowed.then(|| "shop.yaml:16".to_owned()),
        }
    }

    #[test]
    fn connections_and_flow_log_must_agree() {
        assert!(row(2, 0, true).agrees());
        assert!(row(0, 2, false).agrees());
        for wrong in [row(1, 0, true), row(2, 1, true), row(1, 1, false), row(0, 1, false), row(0, 0, false)] {
            assert!(!wrong.agrees(), "{wrong:?}");
            assert!(render(&[wrong]).contains("MISMATCH"));
        }
    }
}
