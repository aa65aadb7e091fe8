//! The daemon repairs what others change in the kernel: right after a netlink event, not only by the clock.

use std::process::Command;
use std::time::Duration;

use enforcer::kernel::group_directory;
use enforcer::lab::Layout;
use enforcer_common::schema::Group;
use enforcer_common::side::Side;

use super::common::stage;

/// More rounds than the clock alone could have repaired within [`BOUND`]: it looks every 5 s.
const ROUNDS: u64 = 6;
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn an_event_leads_to_a_look_at_the_programs() {
    let mut stage = stage(Layout::Bridged, &["a"]);
    stage.start();
    let ifindex = stage.ifindex("a");
    let links = stage.options.pin_dir.join(group_directory(Group::Flows)).join("links");
    let sides = Side::OF_VETH.map(|side| links.join(format!("{ifindex}-{}", side.pin())));
    let begin = std::time::Instant::now();
    for (round, pin) in (1..=ROUNDS).zip(sides.iter().cycle()) {
        // One side a round: the repair of a side attaches the other one as well, and counts only what the look before it found.
        let output = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stage.ip(stage.lab.node(), &format!("link set {} txqueuelen {}", stage.host("a"), 1000 + round));
        stage.until("the programs are back", || stage.view().endpoints[0].is_attached());
    }
    stage.until("each is counted", || stage.status().0["report"]["repaired"] == ROUNDS);
    assert!(begin.elapsed() < BOUND, "the clock alone has done it: {:?}", begin.elapsed());
}
