//! Which test is which row.
//!
//! Rows that are tested elsewhere in more depth, beside the test here that is named after them:
//!
//! | row | also |
//! |---|---|
//! | F1 to F15 | `vfu/tests/framing.rs`, `vfu-proto/tests/session_framer.rs`; C `d01` to `d03`, `command_*` |
//! | D1, D2, D4 | `vfu/tests/descriptors.rs`; C `d06`, `command_closes_descriptors_that_it_does_not_want` |
//! | D6 to D10 | `vfu/tests/dma_map.rs` |
//! | D12 | `vfu/tests/irqs.rs`; C `d20`, `d21` |
//! | J1 to J11 | `vfu/tests/version.rs`, `vfu-proto/tests/wire_version.rs`; C `version_*` |
//! | M1 to M12 | `vfu/tests/dma_map.rs`; C `d16`, `d17`, `d26`, `map_*`, `unmap_*` |
//! | M9, M10 | `vfu/tests/crossing_unmap.rs`, loom and shuttle models of `vfu::dma` |
//! | M15, M16 | `vfu/tests/message_dma.rs`, `crossing_flow.rs`, `crossing_twin.rs`; C `d04`, `d05`, `d08` |
//! | R1 to R3 | `vfu/tests/region.rs`; C `access_*` |
//! | R4 | `vfu/tests/pci_writes.rs`, `pci_registers`; C `d11`, `d14`, `d15` |
//! | R6 | `vfu/tests/lifecycle.rs`; C `function_level_reset_*` |
//! | R8, R9 | `vfu/tests/info.rs`, `doorbells.rs`; C `region_info_*`, `ioeventfds_*` |
//! | I1 to I3 | `vfu/tests/irq_table.rs`; C `irq_set_*`, `d25` |
//! | I4, I5 | `vfu/tests/irq_descriptors.rs` |
//! | I6, I7 | `vfu/tests/irq_storms.rs` |
//! | G1 to G5 | `vfu/tests/migration_states.rs`; C `d13`, `d19`, `migration_*` |
//! | G6 | `vfu-devices/tests/saved_states.rs`: the loader of each device |
//! | G7 to G10 | `vfu/tests/dirty_wire.rs`, `dirty.rs`, `dirty_threads.rs`; C `d12`, `d22` to `d24`, `dirty_*` |
//! | G11 | `vfu/tests/migration.rs` |
//! | L1, L2 | `vfu/tests/crossing_flow.rs`; C `d09` |
//! | L3, L5, L9 | `vfu/tests/lifecycle.rs` |
//! | L6 | `vfu/tests/crossing_twin.rs`, `crossing_end.rs` |
//! | L7 | `vfu/tests/crossing_end.rs`; C `d07` |

/// Rows of each kind: the letter, how many, and the file of their tests.
const ROWS: [(&str, usize, &str); 8] = [
    ("f", 15, include_str!("framing.rs")),
    ("d", 14, include_str!("descriptors.rs")),
    ("j", 11, include_str!("version.rs")),
    ("m", 18, include_str!("memory.rs")),
    ("r", 10, include_str!("regions.rs")),
    ("i", 7, include_str!("interrupts.rs")),
    ("g", 11, include_str!("features.rs")),
    ("l", 9, include_str!("life.rs")),
];

/// The defects of the C library that were found, and a row that would find each. All have a case in C of
/// their own as well, `dNN_*`: `cases.rs` counts those.
const DEFECTS: [(u32, &str); 28] = [
    (1, "f07"),  // a body in two pieces
    (2, "f07"),  // a header in two pieces
    (3, "f05"),  // the body of what is refused
    (4, "m17"),  // a command while DMA waits for its answer
    (5, "m15"),  // an error with a payload
    (6, "d02"),  // descriptors with half a header
    (7, "l07"),  // gone while DMA waits
    (8, "m15"),  // no answer at all
    (9, "l01"),  // a client that is silent, or reads nothing
    (10, "j10"), // transfers of 0 bytes
    (11, "r04"), // configuration space is written past its capabilities
    (12, "m08"), // a bitmap that was not sent
    (13, "g01"), // features without their data
    (14, "r04"), // short writes to BARs
    (15, "r01"), // configuration space that is larger than it is
    (16, "m02"), // lengths that wrap
    (17, "m12"), // offsets inside of a page
    (18, "d08"), // a file that is cut off
    (19, "g07"), // a log that can't be
    (20, "d12"), // SIGPIPE
    (21, "d12"), // an eventfd that is full
    (22, "g08"), // reports in smaller pages, and large ones
    (23, "g08"), // reports in larger pages
    (24, "g08"), // success without data
    (25, "i05"), // vectors taken away one by one
    (26, "m01"), // maps of nothing; m02: beyond the end
    (27, "m04"), // the same map again
    (28, "m11"), // memory that may not be read, and others: see C-ABI, D28
];

#[test]
fn every_row_has_a_test() {
    for (letter, count, source) in ROWS {
        for number in 1..=count {
            let name = format!("#[test]\nfn {letter}{number:02}_");
            assert!(source.contains(&name), "no test {letter}{number:02}_*");
        }
        let named = source.matches(&format!("#[test]\nfn {letter}")).count();
        assert_eq!(named, source.matches("#[test]").count(), "a test that is no row, in {letter}");
    }
}

#[test]
fn every_known_defect_would_be_found() {
    for (at, (defect, row)) in DEFECTS.into_iter().enumerate() {
        assert_eq!(at + 1, defect as usize);
        let found = ROWS.iter().any(|(_, _, source)| source.contains(&format!("fn {row}_")));
        assert!(found, "defect {defect}: no row {row}");
    }
}
