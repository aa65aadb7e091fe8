//! T1: the loaded programs by BPF_PROG_TEST_RUN.
#[test]
fn the_kernel_verifies_every_program() {
    enforcer_tests::bytecode::object::load(1024).unwrap();
}
