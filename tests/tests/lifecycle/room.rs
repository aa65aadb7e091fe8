//! Where the tables have no room for a new workload its veth is closed, and ids are spent by containers and not by what a
//! container shows.

use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use enforcer::kernel::group_directory;
use enforcer::lab::Layout;
use enforcer_common::id::OwnerId;
use enforcer_common::limits::{Global, OWN_ADDRESSES};
use enforcer_common::schema::{self, MapRow};
use enforcer_tests::cases::Port;
use enforcer_tests::net::{inside, sh};
use enforcer_tests::stage::Stage;

use super::common::{add, check, dropped, entry, inventory, passes, stage};

const SERVICE: Port = Port::Tcp(7000);
/// Changes that mean something.
const ENOUGH: u64 = 50;

/// A pinned array of the daemon.
fn array<V: aya::Pod>(stage: &Stage, row: &MapRow) -> Array<MapData, V> {
    let path = stage.options.pin_dir.join(group_directory(row.group)).join("maps").join(row.name);
    Array::try_from(Map::Array(MapData::from_pin(path).unwrap())).unwrap()
}

fn next_owner(stage: &Stage) -> u64 {
    array::<u64>(stage, &schema::GLOBALS).get(&(Global::NextOwner as u32), 0).unwrap()
}

/// Adds a workload and its entry.
fn add_named(stage: &mut Stage, name: &str, all: &[&str]) {
    add(stage, name);
    let entries: Vec<String> = all.iter().map(|name| entry(stage, name, "")).collect();
    stage.inventory(&inventory(&entries));
}

#[test]
fn a_veth_for_which_there_is_no_room_is_closed_until_there_is() {
    let mut stage = stage(Layout::Bridged, &["a"]);
    stage.start();
    let mut quotas = array::<[u32; 8]>(&stage, &schema::QUOTAS);
    let free: Vec<u32> = (0..quotas.len()).filter(|place| quotas.get(place, 0).unwrap() == [0; 8]).collect();
    // As if each place waited for the last flow of a workload that is gone.
    for place in &free {
        quotas.set(*place, [1, 0, 0, 0, 0, 0, 0, 0], 0).unwrap();
    }
    add_named(&mut stage, "b", &["a", "b"]);
    let ifindex = stage.ifindex("b");
    let view = stage.wait("b is closed", |view| view.closed.iter().any(|closed| closed.0 == ifindex));
    assert_eq!(view.endpoints.len(), 1);
    let both = [("a", "b"), ("b", "a"), ("node", "b"), ("b", "node")];
    let closed: Vec<_> = both.iter().map(|(from, to)| dropped(from, to, SERVICE)).collect();
    check(&stage, "no room", &closed);
    let troubles = || stage.status().0["troubles"].to_string();
    stage.until("status tells", || troubles().contains("a veth is closed, because the tables have no room for it"));
    stage.kill();
    check(&stage, "no room, the daemon is dead", &closed);
    stage.start_only();
    stage.wait("the next daemon", |view| view.daemon);
    check(&stage, "no room, the next daemon", &closed);

    for place in &free {
        quotas.set(*place, [0; 8], 0).unwrap();
    }
    stage.ip(stage.lab.node(), &format!("link set {} txqueuelen 77", stage.host("b")));
    // Any change is an occasion.
    add_named(&mut stage, "c", &["a", "b", "c"]);
    stage.ready();
    // Who has asked for a neighbour's address while it was closed gives up after three questions, a second apart. What is sent
    // before that fails with them.
    std::thread::sleep(Duration::from_millis(3_500));
    check(&stage, "there is room", &both.map(|(from, to)| passes(from, to, SERVICE)));
}

#[test]
fn behind_the_last_owner_id_new_workloads_are_attached_with_ids_that_nobody_has() {
    let mut stage = stage(Layout::Bridged, &["a", "c"]);
    stage.start();
    let mut globals = array::<u64>(&stage, &schema::GLOBALS);
    globals.set(Global::NextOwner as u32, u64::from(OwnerId::MAX.0), 0).unwrap();
    add_named(&mut stage, "b", &["a", "b", "c"]);
    stage.ready();
    let ids = |stage: &Stage| stage.view().endpoints.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>();
    let mut distinct = ids(&stage);
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{distinct:?}");
    stage.until("the counter begins again", || next_owner(&stage) < 100);
    check(&stage, "all of them", &[passes("a", "b", SERVICE), passes("b", "c", SERVICE), passes("c", "a", SERVICE)]);
    stage.kill();
    stage.start();
    check(&stage, "the next daemon", &[passes("a", "b", SERVICE), passes("b", "a", SERVICE)]);
}

/// What a container does to its addresses for some time, as fast as it can; gives how often it did.
fn flap(stage: &Stage, name: &str, period: Duration, mut change: impl FnMut(u64) + Send) -> u64 {
    inside(stage.at(name), || {
        let (begin, mut times) = (Instant::now(), 0);
        // On a busy machine longer, until there are enough of them.
        while begin.elapsed() < period || times <= ENOUGH && begin.elapsed() < 10 * period {
            change(times);
            times += 1;
        }
        times
    })
}

#[test]
fn what_a_container_shows_spends_few_ids() {
    let mut stage = stage(Layout::Bridged, &["a", "b"]);
    stage.start();
    let period = Duration::from_secs(5);
    let cost = |stage: &Stage, what: &str, change: &mut (dyn FnMut(u64) + Send)| {
        let before = next_owner(stage);
        let times = flap(stage, "a", period, change);
        std::thread::sleep(Duration::from_secs(1));
        let spent = next_owner(stage) - before;
        println!("{what}: {times} changes in {period:?} cost {spent} ids");
        assert!(times > ENOUGH, "{times} changes are too few to mean much");
        spent
    };
    let link = cost(&stage, "the link goes down and up", &mut |turn| {
        sh(&format!("ip link set eth0 {}", if turn % 2 == 0 { "down" } else { "up" }));
    });
    sh_in(&stage, "a", "ip link set eth0 up");
    let same = cost(&stage, "one address comes and goes", &mut |turn| {
        sh(&format!("ip address {} 10.88.7.7/16 dev eth0", if turn % 2 == 0 { "add" } else { "del" }));
    });
    let new = cost(&stage, "each address is a new one", &mut |turn| {
        let number = |turn: u64| format!("10.88.{}.{}", 100 + turn / 250 % 100, 1 + turn % 250);
        sh(&format!("ip address add {}/16 dev eth0", number(turn)));
        if let Some(old) = turn.checked_sub(4) {
            sh(&format!("ip address del {}/16 dev eth0", number(old)));
        }
    });
    // Its own two, the link-local one, and the one that flaps; then the burst of a workload and one a minute.
    assert!(link <= 4 && same <= 4, "{link} and {same} ids");
    assert!(new <= 66, "{new} ids");
    // A flow without a packet is gone after 7,800 s: far before an id is given again.
    let worst = (link + same + new) / period.as_secs() + 1;
    assert!(u64::from(OwnerId::MAX.0) / worst > 100 * 7_800, "{worst} ids a second");
    assert!(stage.view().endpoints.iter().all(|endpoint| endpoint.addresses.len() <= OWN_ADDRESSES));
    check(&stage, "its neighbour", &[passes("b", "node", SERVICE)]);
}

fn sh_in(stage: &Stage, name: &str, line: &str) {
    inside(stage.at(name), || sh(line));
}
