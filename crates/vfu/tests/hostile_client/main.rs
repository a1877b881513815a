//! Hostile servers against our client: the rows S1 to S15, each a test of that name. The rows of a
//! table are servers; after each of them nothing of it is left in the client's process, and the
//! client has said what was wrong.
//!
//! | file | rows |
//! |---|---|
//! | `version` | S1, S2: VERSION |
//! | `commands` | S3: what the server asks for |
//! | `replies` | S4, S5: replies that are none |
//! | `info` | S6 to S9: what the server says of the device |
//! | `access` | S10 to S12: accesses, unmaps, features |
//! | `traffic` | S13 to S15: storms, and silence |
//!
//! Rows that have a home elsewhere are in [`ELSEWHERE`].

mod access;
mod alone;
mod commands;
mod info;
mod replies;
mod server;
mod traffic;
mod version;

/// Parts of rows that other tests have: the row, and the function that is it.
const ELSEWHERE: [(&str, &str, &str); 9] = [
    ("s03", include_str!("../crossing_client.rs"), "c3e_memory_is_there_until_the_server_has"),
    ("s03", include_str!("../crossing_client.rs"), "k7_descriptors_in_a_command_of_the_server"),
    ("s04", include_str!("../crossing_client.rs"), "k4_a_reply_in_pieces_is_not_written"),
    ("s05", include_str!("../crossing_client.rs"), "k3_a_late_reply_is_drained_by_its_own_size"),
    ("s05", include_str!("../crossing_client.rs"), "k5_a_disconnect_ends_every_request_at_once"),
    ("s07", include_str!("../client_regions.rs"), "descriptions_that_make_no_sense_are_errors"),
    ("s07", include_str!("../client_regions.rs"), "lies_are_reached_by_message"),
    ("s12", include_str!("../dirty_client.rs"), "reports_that_make_no_sense_are_errors"),
    ("s15", include_str!("../crossing_client.rs"), "k6_posted_writes_are_bounded"),
];

#[test]
fn every_row_has_a_test() {
    let files = [
        include_str!("version.rs"),
        include_str!("commands.rs"),
        include_str!("replies.rs"),
        include_str!("info.rs"),
        include_str!("access.rs"),
        include_str!("traffic.rs"),
    ];
    for row in 1..=15 {
        let test = format!("#[test]\nfn s{row:02}_");
        assert!(files.iter().any(|file| file.contains(&test)), "S{row} has no test");
    }
    for (row, file, test) in ELSEWHERE {
        assert!(file.contains(test), "{row}: {test} has gone");
    }
}
