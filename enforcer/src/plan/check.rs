//! Checks a plan before anything is written. Input: a plan. Output: the first reason why it cannot be put in force.

use std::collections::BTreeSet;

use enforcer_common::id::{Ifindex, Row};
use enforcer_common::image::Header;
use enforcer_common::limits::{HOMES, IMAGE_BUDGET, OWN_ADDRESSES, UPLINKS};

use super::{Plan, PlannedWorkload};

/// Why a plan cannot be put in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Impossible {
    /// The plan does not agree with itself.
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// The tables need too much memory.
    ImageTooLarge {
        /// Bytes that they need.
        needed: u64,
        /// Bytes that they may have.
        budget: u64,
    },
    /// More of something than there are places.
    NoRoom {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        needed: usize,
        /// How many fit.
        room: usize,
    },
}

impl Plan<'_> {
    /// Whether the plan agrees with itself and keeps within every bound that is known without the kernel.
    pub(crate) fn check(&self) -> Result<(), Impossible> {
        let header = self.header()?;
        let mut devices = BTreeSet::new();
        for workload in &self.workloads {
            for row in workload.rows {
                if row.0 >= header.rows && row != Row::NOT_ISOLATED && row != Row::NONE {
                    return Err(Impossible::Invalid { what: "it has no row of the number that a workload names" });
                }
            }
            for ifindex in &workload.endpoints {
                if !devices.insert(*ifindex) {
                    return Err(Impossible::Invalid { what: "its plan names a device twice" });
                }
            }
        }
        let pairs = self.pairs();
        if pairs > HOMES as usize {
            return Err(Impossible::NoRoom {
                what: "devices of workloads' addresses",
                needed: pairs,
                room: HOMES as usize,
            });
        }
        if self.uplinks.len() > UPLINKS as usize {
            return Err(Impossible::NoRoom { what: "uplinks", needed: self.uplinks.len(), room: UPLINKS as usize });
        }
        Ok(())
    }

    /// How many pairs `HOMES` has to hold at most.
    fn pairs(&self) -> usize {
        let above = |veth: &Ifindex| 1 + self.above.get(veth).map_or(0, BTreeSet::len);
        let devices = |workload: &PlannedWorkload| 1 + workload.endpoints.iter().map(above).sum::<usize>();
        let of = |workload: &PlannedWorkload| workload.addresses.len().min(OWN_ADDRESSES) * devices(workload);
        let broadcasts = self.beside.broadcasts.values().map(BTreeSet::len).sum::<usize>();
        self.workloads.iter().map(of).sum::<usize>()
            + self.beside.uplinks.len()
            + broadcasts
            + self.beside.stations.len()
    }

    /// The header, if it agrees with the tables and these keep within the budget.
    fn header(&self) -> Result<Header, Impossible> {
        let invalid = |what| Impossible::Invalid { what };
        let first = self.lines.first().ok_or(invalid("it has no lines"))?;
        let header = Header::from_line(first).ok_or(invalid("it has the layout of another version"))?;
        if header.lines as usize != self.lines.len() {
            return Err(invalid("its header gives another number of lines"));
        }
        if header.addresses as usize != self.addresses.len() {
            return Err(invalid("its header gives another number of addresses"));
        }
        let needed = size_of_val(self.lines) + size_of_val(self.addresses);
        if needed as u64 > IMAGE_BUDGET {
            return Err(Impossible::ImageTooLarge { needed: needed as u64, budget: IMAGE_BUDGET });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use enforcer_common::id::Address;
    use enforcer_common::image::{AddressEntry, Line};

    use crate::plan::WorkloadKey;
    use crate::workload::model::Beside;

    fn plan<'a>(lines: &'a [Line], addresses: &'a [(Address, AddressEntry)]) -> Plan<'a> {
        Plan {
            lines,
            addresses,
            workloads: Vec::new(),
            uplinks: Vec::new(),
            above: BTreeMap::new(),
            beside: Beside::default(),
        }
    }

    fn image(change: impl FnOnce(&mut Header)) -> Vec<Line> {
        let mut header = Header { magic: Header::MAGIC, lines: 3, addresses: 1, ..Header::default() };
        change(&mut header);
        vec![header.to_line(), Line::ZERO, Line::ZERO]
    }

    #[test]
    fn what_does_not_agree_with_its_header_is_refused() {
        let addresses = [(Address::UNSPECIFIED, AddressEntry(0))];
        plan(&image(|_| ()), &addresses).check().unwrap();
        for (lines, addresses, what) in [
            (vec![], &addresses[..], "it has no lines"),
            (image(|header| header.magic = 1), &addresses, "it has the layout of another version"),
            (image(|header| header.lines = 4), &addresses, "its header gives another number of lines"),
            (image(|_| ()), &[], "its header gives another number of addresses"),
        ] {
            assert_eq!(plan(&lines, addresses).check(), Err(Impossible::Invalid { what }));
        }
    }

    #[test]
    fn what_is_over_the_budget_is_refused_with_numbers() {
        let most = IMAGE_BUDGET as usize / size_of::<Line>();
        let mut lines = vec![Line::ZERO; most + 1];
        lines[0] = Header { magic: Header::MAGIC, lines: most as u32 + 1, ..Header::default() }.to_line();
        let refused = Impossible::ImageTooLarge { needed: 67_108_928, budget: 67_108_864 };
        assert_eq!(plan(&lines, &[]).check(), Err(refused));
    }

    #[test]
    fn what_does_not_agree_with_itself_is_refused() {
        let (lines, addresses) = (image(|header| header.rows = 1), [(Address::UNSPECIFIED, AddressEntry(0))]);
        let planned = |key: u64, rows| PlannedWorkload {
            key: WorkloadKey(key),
            endpoints: vec![Ifindex(7)],
            addresses: Vec::new(),
            unknown: false,
            routes: false,
            rows,
            window: None,
        };
        let check = |workloads, uplinks| Plan { workloads, uplinks, ..plan(&lines, &addresses) }.check();
        let good = planned(1, [Row(0), Row::NONE]);
        check(vec![good.clone()], vec![Ifindex(1)]).unwrap();
        let stranger = planned(1, [Row(0), Row(1)]);
        let what = "it has no row of the number that a workload names";
        assert_eq!(check(vec![stranger], vec![]), Err(Impossible::Invalid { what }));
        let what = "its plan names a device twice";
        assert_eq!(check(vec![good, planned(2, [Row::NONE; 2])], vec![]), Err(Impossible::Invalid { what }));
        let crowded =
            PlannedWorkload { addresses: vec![Address::UNSPECIFIED; OWN_ADDRESSES], ..planned(1, [Row::NONE; 2]) };
        let above = BTreeMap::from([(Ifindex(7), (0..HOMES / 16).map(Ifindex).collect())]);
        let refused = Plan { workloads: vec![crowded], above, ..plan(&lines, &addresses) }.check();
        let needed = 16 * (2 + HOMES as usize / 16);
        let what = "devices of workloads' addresses";
        assert_eq!(refused, Err(Impossible::NoRoom { what, needed, room: HOMES as usize }));
        let many = UPLINKS + 1;
        let refused = Impossible::NoRoom { what: "uplinks", needed: many as usize, room: UPLINKS as usize };
        assert_eq!(check(vec![], (1..=many).map(Ifindex).collect()), Err(refused));
    }
}
