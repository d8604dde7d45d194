//! The budget: its arithmetic, and that the machines we promise are possible.

use edge_config::budget::{
    BASE_BYTES, Budget, CLIENT_INPUT_BYTES, CLIENT_STATE_BYTES, GRAIN_BYTES, PUMP_BYTES,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn budget(connections: u64, buffers: u64, backends: u64, backend_buffers: u64) -> Budget {
    Budget {
        base: BASE_BYTES,
        connection: buffers + CLIENT_INPUT_BYTES + CLIENT_STATE_BYTES,
        backend_connection: backend_buffers + PUMP_BYTES,
        connections,
        backend_connections: backends,
    }
}

#[test]
fn adds_up_by_hand() {
    let budget = budget(10, 12 * KIB, 3, 24 * KIB);
    assert_eq!(budget.connection, 40 * KIB);
    assert_eq!(budget.backend_connection, 56 * KIB);
    let in_use = 512 * KIB + 400 * KIB + 168 * KIB;
    assert_eq!(budget.in_use(), in_use);
    // 1,080 KiB and an eighth are 1,215 KiB; the next grain is 1,216.
    assert_eq!(budget.heap(), 1216 * KIB);
}

#[test]
fn a_heap_is_whole_grains_and_holds_all_that_is_in_use_and_the_allocators_share() {
    for connections in [1, 2, 3, 16, 100, 999, 100_000] {
        let budget = budget(connections, 5_000, connections.div_ceil(3), 7_001);
        assert_eq!(budget.heap() % GRAIN_BYTES, 0);
        assert!(budget.heap() >= budget.in_use() + budget.in_use() / 8);
        assert!(budget.heap() < budget.in_use() + budget.in_use() / 8 + GRAIN_BYTES + 1);
    }
}

#[test]
fn numbers_without_bounds_do_not_overflow() {
    let wild = Budget {
        base: u64::MAX,
        connection: u64::MAX,
        backend_connection: u64::MAX,
        connections: u64::MAX,
        backend_connections: u64::MAX,
    };
    assert_eq!(wild.heap(), u64::MAX);
}

#[test]
fn the_machines_we_promise_are_possible() {
    let small = budget(16, 24 * KIB, 16, 24 * KIB).heap();
    assert!((2 * MIB..=6 * MIB).contains(&small), "16 connections in 16 MiB: {small}");
    let thousand = budget(1000, 12 * KIB, 64, 24 * KIB).heap();
    assert!(thousand <= 55 * MIB, "1,000 connections in 64 MiB: {thousand}");
    let bench = budget(1008, 80 * KIB, 1008, 64 * KIB).heap();
    assert!(bench <= 230 * MIB, "the bench's: {bench}");
}
