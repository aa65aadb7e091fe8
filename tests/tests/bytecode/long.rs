//! Tests of an image that is longer than the copy of its first lines. The other lines are looked up in another map, and both
//! must belong to one image.

use enforcer_common::{image::Line, limits::START_LINES, verdict::Reason};
use enforcer_tests::{
    bytecode::scene::{OTHER, Scene, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;
use crate::verdicts::{ALLOW, deny};

/// A section of a range table.
#[derive(Clone, Copy, Debug)]
struct Section {
    v4: bool,
    /// Place of its first line among the words of the table's line.
    word: usize,
    /// Elements a line.
    a_line: u32,
}

const STARTS_V4: Section = Section { v4: true, word: 6, a_line: 8 };
const CLASSES_V4: Section = Section { v4: true, word: 7, a_line: 16 };
const STARTS_V6: Section = Section { v4: false, word: 6, a_line: 4 };
const CLASSES_V6: Section = Section { v4: false, word: 7, a_line: 16 };

impl Section {
    /// The first of its ranges that does not lie in the first lines.
    fn first_behind(self, image: &[Line], ranges: u32) -> u32 {
        let table = &image[if self.v4 { 1 } else { 2 }];
        let before = START_LINES.checked_sub(table.word(self.word)).expect("it begins in the first lines");
        let first = before * self.a_line;
        assert!((1..ranges).contains(&first), "{self:?}: {first} of {ranges} lie in the first lines");
        first
    }
}

/// An address in a range of nobody, by its number.
fn in_range(v4: bool, number: u32) -> std::net::IpAddr {
    if v4 {
        std::net::Ipv4Addr::from_bits(0x0b00_0000 + number * 256 + 7).into()
    } else {
        std::net::Ipv6Addr::from_bits((0x2001_0000_0000_0000 + (u128::from(number) << 16)) << 64 | 7).into()
    }
}

#[test]
fn what_lies_behind_the_first_lines_decides_like_what_lies_in_them() {
    for (section, extra) in [(CLASSES_V6, 54_000), (STARTS_V6, 100_000), (CLASSES_V4, 215_000), (STARTS_V4, 300_000)] {
        let scene = Scene { extra, ..Scene::default() };
        let first = section.first_behind(&scene.image(), extra);
        let Some(mut both) = Both::new(&scene) else { return };
        let numbers = [1, first - section.a_line, first - 1, first, first + 1, first + section.a_line, extra];
        for (family, v4) in [(0, true), (1, false)] {
            let own = ip(who::WORKLOAD[family]);
            let nobody = numbers.map(|number| (in_range(v4, number.clamp(1, extra)), deny(Reason::NoRule)));
            // Both come after all the ranges of nobody.
            let last = [(ip(who::RANGE[family]), ALLOW), (ip(who::STRANGER[family]), deny(Reason::NoRule))];
            for (peer, expected) in nobody.into_iter().chain(last) {
                both.forget_flows();
                let syn = Transport::syn(40_000, 80);
                assert_eq!(both.sends(&Frame::new(own, peer, syn).bytes()), expected, "{section:?}: to {peer}");
                both.forget_flows();
                let frame = Frame::new(peer, own, syn).bytes();
                assert_eq!(both.receives(OTHER, &frame), expected, "{section:?}: from {peer}");
            }
        }
    }
}
