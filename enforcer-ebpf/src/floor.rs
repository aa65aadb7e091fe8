//! The baseline of the benchmarks: the least that such a program can do, which is to parse a packet and to look up or insert
//! one key.
//!
//! Input: an skb. Output: pass. `vary` changes the addresses and ports of a packet in place, and then tail-calls the program
//! under test, because `BPF_PROG_TEST_RUN` repeats the packet as the last run left it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        unsafe_code,
        clippy::needless_borrows_for_generic_args,
        reason = "maps, packet memory and helpers are raw pointers to the kernel; a key given by value is copied again"
    )
)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{__sk_buff, BPF_NOEXIST},
        btf_maps::{HashMap, ProgramArray},
        macros::btf_map,
        programs::TcContext,
    };
    use enforcer_common::limits;

    const TCX_NEXT: i32 = -1;

    /// As long as a flow key and a flow value.
    type Table = HashMap<[u32; 6], [u64; 4], { limits::FLOWS as usize }>;

    #[btf_map]
    static FLOOR: Table = Table::new();
    /// The program under test.
    #[btf_map]
    static NEXT: ProgramArray<1> = ProgramArray::new();

    /// Parses and looks up.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn look_up(skb: *mut __sk_buff) -> i32 {
        if let Some(key) = key(skb) {
            // SAFETY: nobody writes meanwhile.
            if unsafe { FLOOR.get(&key) }.is_some() {
                return TCX_NEXT;
            }
        }
        2
    }

    /// Parses and inserts.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn insert(skb: *mut __sk_buff) -> i32 {
        if let Some(key) = key(skb)
            && FLOOR.insert(&key, &[1, 2, 3, 4], u64::from(BPF_NOEXIST)).is_ok()
        {
            return TCX_NEXT;
        }
        2
    }

    /// Nothing: the cost of a run itself.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn nothing(_: *mut __sk_buff) -> i32 {
        TCX_NEXT
    }

    /// Another source port each time, and another destination each 65,536 times.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn vary_source(skb: *mut __sk_buff) -> i32 {
        vary(skb, 34)
    }

    /// Another destination port each time, and another destination each 65,536 times.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn vary_destination(skb: *mut __sk_buff) -> i32 {
        vary(skb, 36)
    }

    #[inline(always)]
    fn vary(skb: *mut __sk_buff, port_at: usize) -> i32 {
        // SAFETY: bounds are checked before the packet is touched; a failed tail call returns.
        unsafe {
            let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
            if data + 54 > end {
                return 2;
            }
            let (port, address) = ((data + port_at) as *mut u16, (data + 32) as *mut u16);
            *port = (*port).wrapping_add(1);
            if *port == 0 {
                *address = (*address).wrapping_add(1);
            }
            NEXT.tail_call(&TcContext::new(skb), 0);
        }
        2
    }

    #[inline(always)]
    fn key(skb: *mut __sk_buff) -> Option<[u32; 6]> {
        // SAFETY: bounds are checked before the packet is touched.
        unsafe {
            let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
            if data + 54 > end {
                return None;
            }
            let word = |offset: usize| *((data + offset) as *const u32);
            match *((data + 12) as *const u16) {
                0x0008 => Some([word(26), word(34), 0, 0, 0xffff_0000, word(30)]),
                0xdd86 if data + 58 <= end => Some([word(34), word(54), word(38), word(42), word(46), word(50)]),
                _ => None,
            }
        }
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 11] = *b"Apache-2.0\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
