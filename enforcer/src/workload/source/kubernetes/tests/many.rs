//! What many pods cost.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::{Api, pod};
use crate::workload::model::Labels;

/// Pods that share one set of labels share its memory, and an update of one of them makes one statement anew.
#[test]
fn thousands_of_pods_with_one_set_of_labels_share_it() {
    for count in [1_000_u32, 10_000] {
        let mut api = Api::new();
        for number in 0..count {
            let [.., high, low] = number.to_be_bytes();
            let mut peer = pod(&format!("web-{number}"), "node2", &[&format!("10.1.{high}.{low}")]);
            peer["metadata"]["labels"] = json!({"app": "web", "tier": "front", "pod-template-hash": "0123456789"});
            api.apply(&peer);
        }
        let first = api.state();
        let labels: *const Labels = first.statements[0].labels.place();
        assert!(first.statements.iter().all(|statement| statement.labels.place() == labels));
        let mut changed = pod("web-7", "node2", &["10.1.255.255"]);
        changed["metadata"]["labels"] = json!({"app": "web", "tier": "front", "pod-template-hash": "0123456789"});
        api.apply(&changed);
        let begin = Instant::now();
        let second = api.state();
        println!("{count} pods: one update takes {:?}", begin.elapsed());
        let same = |(one, other): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(one, other);
        let shared = first.statements.iter().zip(second.statements.iter()).filter(|pair| same(*pair)).count();
        assert_eq!(shared, count as usize - 1);
        assert_eq!(second.statements.iter().find(|one| one.by == "pod shop/web-7").unwrap().labels.place(), labels);
    }
}
