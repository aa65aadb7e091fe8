use enforcer_common::id::Ifindex;
use proptest::prelude::*;

use super::*;

/// Ids from 1 on, and more places than any test needs.
fn supply() -> Supply {
    Supply::new(1, BTreeSet::new(), (1000..2000).map(QuotaPlace), 1000)
}

fn address(n: u32) -> Address {
    Address::v4(n.to_be())
}

fn workload(key: u64, endpoints: &[u32], addresses: &[u32]) -> PlannedWorkload {
    PlannedWorkload {
        key: WorkloadKey(key),
        endpoints: endpoints.iter().copied().map(Ifindex).collect(),
        addresses: addresses.iter().copied().map(address).collect(),
        unknown: false,
        routes: false,
        rows: [Row(3), Row(4)],
        window: None,
    }
}

/// The endpoints once everything of a plan is stored.
fn end(current: &BTreeMap<Ifindex, Endpoint>, writes: &Writes) -> BTreeMap<Ifindex, Endpoint> {
    let mut next = current.clone();
    let all = [&writes.taken, &writes.before, &writes.fresh, &writes.after, &writes.wiped, &writes.late];
    for endpoint in all.into_iter().flatten() {
        next.insert(endpoint.ifindex, *endpoint);
    }
    next
}

fn own(endpoint: &Endpoint) -> BTreeMap<Address, OwnerId> {
    owned(endpoint).collect()
}

#[test]
fn veths_of_one_workload_share_its_ids_and_others_do_not() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let plan = [workload(1, &[10, 11], &[1, 2]), workload(2, &[12], &[3])];
    let writes = all.plan(&plan, &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap();
    let now = end(&BTreeMap::new(), &writes);
    assert_eq!(now[&Ifindex(10)].id, writes.ids[&WorkloadKey(1)]);
    assert_eq!((now[&Ifindex(10)].id, now[&Ifindex(10)].quota), (now[&Ifindex(11)].id, now[&Ifindex(11)].quota));
    assert_eq!(own(&now[&Ifindex(10)]), own(&now[&Ifindex(11)]));
    assert_ne!(now[&Ifindex(10)].id, now[&Ifindex(12)].id);
    let mut given: Vec<OwnerId> =
        own(&now[&Ifindex(10)]).into_values().chain(own(&now[&Ifindex(12)]).into_values()).collect();
    given.extend([now[&Ifindex(10)].id.owner(), now[&Ifindex(12)].id.owner()]);
    let distinct: BTreeSet<_> = given.iter().collect();
    assert_eq!(distinct.len(), given.len(), "an id stands for one thing only: {given:?}");
}

#[test]
fn only_the_idle_slot_of_a_living_endpoint_changes_before_the_word() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let first = all.plan(&[workload(1, &[10], &[1])], &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap();
    let now = end(&BTreeMap::new(), &first);
    let mut changed = workload(1, &[10], &[1]);
    changed.rows = [Row(7), Row(8)];
    changed.routes = true;
    let second = all.plan(&[changed], &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    let before = second.before[0];
    assert_eq!(before.rows, [[Row(7), Row(8)], [Row(3), Row(4)]]);
    assert_eq!(before.flags, [Endpoint::ROUTES, 0]);
    assert_eq!(before.id, now[&Ifindex(10)].id, "the same workload keeps its id");
}

#[test]
fn an_adopted_veth_keeps_its_ids_and_a_later_key_gets_new_ones() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let writes = all.plan(&[workload(1, &[10], &[1])], &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap();
    let now = end(&BTreeMap::new(), &writes);

    let mut adopted = Incarnations::adopt(
        now.values(),
        |id| (id == now[&Ifindex(10)].id).then_some(now[&Ifindex(10)].quota),
        &mut ids,
    )
    .unwrap();
    let writes = adopted.plan(&[workload(77, &[10], &[1])], &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    let next = end(&now, &writes);
    assert_eq!((next[&Ifindex(10)].id, own(&next[&Ifindex(10)])), (now[&Ifindex(10)].id, own(&now[&Ifindex(10)])));

    let writes = adopted.plan(&[workload(78, &[10], &[1])], &next, &mut ids, Slot::BOTH[1], 0).unwrap();
    let last = end(&next, &writes);
    assert_ne!(last[&Ifindex(10)].id, now[&Ifindex(10)].id, "another network namespace behind the veth");
    assert_ne!(own(&last[&Ifindex(10)]), own(&now[&Ifindex(10)]));
    assert_eq!(adopted.retire(last.values()), [now[&Ifindex(10)].quota]);
}

#[test]
fn a_veth_that_no_workload_names_is_closed_in_the_idle_slot_only() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let writes = all.plan(&[workload(1, &[10], &[1])], &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap();
    let now = end(&BTreeMap::new(), &writes);
    let writes = all.plan(&[], &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    assert_eq!(writes.before[0].flags, [Endpoint::UNKNOWN, 0]);
    assert_eq!(writes.before[0].rows, [[Row::NONE; 2], [Row(3), Row(4)]]);
}

#[test]
fn addresses_beyond_the_places_are_refused_and_the_older_ones_stay() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let many: Vec<u32> = (1..=OWN_ADDRESSES as u32).collect();
    let writes = all.plan(&[workload(1, &[10], &many)], &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap();
    let now = end(&BTreeMap::new(), &writes);
    assert_eq!(writes.refused, []);
    let more: Vec<u32> = [99].into_iter().chain(many).collect();
    let writes = all.plan(&[workload(1, &[10], &more)], &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    assert_eq!(writes.refused, [RefusedAddress { key: WorkloadKey(1), address: address(99), why: Refusal::NoPlace }]);
    assert_eq!(own(&end(&now, &writes)[&Ifindex(10)]), own(&now[&Ifindex(10)]));
}

#[test]
fn an_address_that_comes_back_has_the_id_that_it_had_in_this_incarnation() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let mut now = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut turn = 0;
    let mut show = |all: &mut Incarnations, ids: &mut Supply, key, addresses: &[u32]| {
        turn += 1;
        let writes = all.plan(&[workload(key, &[10], addresses)], &now, ids, Slot::BOTH[turn & 1], 0).unwrap();
        now = end(&now, &writes);
        own(&now[&Ifindex(10)]).into_values().collect::<Vec<_>>()
    };
    for addresses in [&[1][..], &[], &[1], &[2], &[1, 2]] {
        seen.extend(show(&mut all, &mut ids, 1, addresses));
    }
    assert_eq!(seen.len(), 2, "an id for each of two addresses");
    assert!(all.ids().collect::<BTreeSet<_>>().is_superset(&seen));
    let other = show(&mut all, &mut ids, 2, &[1]);
    assert!(other.iter().all(|owner| !seen.contains(owner)), "another incarnation begins anew");
}

#[test]
fn addresses_that_are_new_all_the_time_are_refused_and_those_that_were_there_stay() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let mut now = BTreeMap::new();
    let first = ids.next_owner();
    let mut refused = 0;
    for turn in 0..1000 {
        let plan = [workload(1, &[10], &[1, 1000 + turn as u32]), workload(2, &[11], &[2])];
        let writes = all.plan(&plan, &now, &mut ids, Slot::BOTH[turn & 1], 0).unwrap();
        refused += writes.refused.iter().filter(|refused| refused.why == Refusal::TooManyNew).count();
        assert!(writes.refused.iter().all(|refused| refused.key == WorkloadKey(1)));
        now = end(&now, &writes);
        assert!(own(&now[&Ifindex(10)]).contains_key(&address(1)) && own(&now[&Ifindex(11)]).contains_key(&address(2)));
    }
    assert_eq!(
        (ids.next_owner() - first, refused),
        (2 + 64 + 1, 1000 - 63),
        "two incarnations, a burst, its neighbour"
    );
}

#[test]
fn the_window_is_for_the_first_attach_alone() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let mut with_window = workload(1, &[10], &[1]);
    with_window.window = Some(std::time::Duration::from_secs(2));
    let plan = [with_window];
    let writes = all.plan(&plan, &BTreeMap::new(), &mut ids, Slot::BOTH[1], 5).unwrap();
    assert_eq!(writes.fresh[0].window_end, 2_000_000_005);
    let now = end(&BTreeMap::new(), &writes);
    let writes = all.plan(&plan, &now, &mut ids, Slot::BOTH[0], 9_000_000_000).unwrap();
    assert_eq!(writes.before[0].window_end, 2_000_000_005);
}

#[test]
fn an_address_that_moves_is_nobody_elses_before_the_word() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let plan = [workload(1, &[10], &[1, 2, 3]), workload(2, &[11], &[4]), workload(3, &[12], &[5])];
    let now = end(&BTreeMap::new(), &all.plan(&plan, &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap());
    // 2 moves to a veth that is there, 3 goes away, 5 moves to a fresh one from a veth that nobody has any more.
    let plan = [workload(1, &[10], &[1, 6]), workload(2, &[11], &[4, 2]), workload(4, &[13], &[5])];
    let writes = all.plan(&plan, &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    let mut at_word = now.clone();
    for endpoint in &writes.taken {
        at_word.insert(endpoint.ifindex, *endpoint);
        assert_eq!(endpoint.flags, now[&endpoint.ifindex].flags, "nothing but ids goes");
    }
    for endpoint in &writes.before {
        assert!(!own(&at_word[&Ifindex(10)]).contains_key(&address(2)), "taken before it is given");
        at_word.insert(endpoint.ifindex, *endpoint);
    }
    let at_word = |ifindex| own(&at_word[&ifindex]).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(at_word(Ifindex(10)), [address(1), address(3), address(6)].into(), "what nobody has waits for its turn");
    assert_eq!(at_word(Ifindex(11)), [address(2), address(4)].into());
    assert_eq!(at_word(Ifindex(12)), BTreeSet::new());
    let last = end(&now, &writes);
    assert_eq!(own(&last[&Ifindex(10)]).into_keys().collect::<BTreeSet<_>>(), [address(1), address(6)].into());
    assert_eq!(last[&Ifindex(10)].addresses.iter().filter(|place| **place == address(2)).count(), 0, "wiped");
}

#[test]
fn a_closed_slot_stays_closed_in_every_later_step() {
    let (mut all, mut ids) = (Incarnations::default(), supply());
    let plan = [workload(1, &[10], &[1, 2]), workload(2, &[11], &[3])];
    let now = end(&BTreeMap::new(), &all.plan(&plan, &BTreeMap::new(), &mut ids, Slot::BOTH[1], 0).unwrap());
    // Addresses go, come and move, so that there are endpoints of every step.
    let many: Vec<u32> = (3..3 + OWN_ADDRESSES as u32).collect();
    let plan = [workload(1, &[10], &many), workload(3, &[12], &[40])];
    let mut writes = all.plan(&plan, &now, &mut ids, Slot::BOTH[0], 0).unwrap();
    writes.close(Slot::BOTH[1]);
    let steps = [&writes.taken, &writes.before, &writes.after, &writes.wiped, &writes.late];
    for (step, endpoints) in steps.into_iter().enumerate() {
        assert!(!endpoints.is_empty(), "step {step}");
        assert!(endpoints.iter().all(|endpoint| endpoint.rows[1] == [Row::NONE; 2]), "step {step}");
    }
    assert!(writes.before.iter().any(|endpoint| endpoint.rows[0] == [Row(3), Row(4)]));
    assert_eq!(writes.fresh[0].rows, [[Row(3), Row(4)]; 2], "its programs run under the new word alone");
}

fn an_endpoint() -> impl Strategy<Value = Endpoint> {
    proptest::collection::vec(proptest::option::of(0_u32..24), OWN_ADDRESSES).prop_map(|places| {
        let mut endpoint = Endpoint::FREE;
        for (place, number) in places.into_iter().enumerate() {
            let Some(number) = number else { continue };
            if !own(&endpoint).contains_key(&address(number)) {
                endpoint.addresses[place] = address(number);
                endpoint.owners[place] = OwnerId(100 + number);
                endpoint.owned = place as u32 + 1;
            }
        }
        endpoint
    })
}

proptest! {
    #[test]
    fn no_address_is_edited_under_a_live_id(
        current in an_endpoint(),
        numbers in proptest::collection::btree_set(0_u32..24, 0..=OWN_ADDRESSES),
        others in proptest::collection::btree_set(0_u32..24, 0..4),
    ) {
        let claimed: BTreeSet<_> = numbers.iter().chain(&others).copied().map(address).collect();
        let wanted: Vec<_> = numbers.iter().map(|number| (address(*number), OwnerId(200 + number))).collect();
        let [before, after, wiped, late] = arrange(&current, &wanted, &claimed);
        for (from, to) in [(&current, &before), (&before, &after), (&after, &wiped), (&wiped, &late)] {
            for place in 0..OWN_ADDRESSES {
                if from.owners[place] != OwnerId::NONE {
                    prop_assert_eq!(from.addresses[place], to.addresses[place]);
                }
            }
        }
        let wanted: BTreeMap<_, _> = wanted.into_iter().collect();
        for address in own(&current).keys() {
            let stays = wanted.contains_key(address);
            let taken = !stays && claimed.contains(address);
            prop_assert_eq!(own(&before).contains_key(address), !taken, "only what another has goes before the word");
            prop_assert_eq!(own(&after).contains_key(address), stays);
        }
        prop_assert_eq!(own(&late), wanted);
        // A place that had another address is wiped, and not given to an address in the same step.
        for place in 0..OWN_ADDRESSES {
            if current.owners[place] != OwnerId::NONE && after.owners[place] == OwnerId::NONE {
                prop_assert_eq!(current.addresses[place], after.addresses[place]);
                prop_assert_eq!(wiped.addresses[place], Address::UNSPECIFIED);
                prop_assert_eq!(wiped.owners[place], OwnerId::NONE);
            }
        }
    }
}
