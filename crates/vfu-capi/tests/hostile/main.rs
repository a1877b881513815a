//! A hostile client, row by row: against a server in Rust and one in C, by the same scripts.
//!
//! | file | rows | what is broken |
//! |---|---|---|
//! | `framing` | F1 to F15 | messages, and the stream of them |
//! | `descriptors` | D1 to D14 | file descriptors |
//! | `version` | J1 to J11 | VERSION and its JSON |
//! | `memory` | M1 to M18 | DMA |
//! | `regions` | R1 to R10 | regions and configuration space |
//! | `interrupts` | I1 to I7 | DEVICE_SET_IRQS |
//! | `features` | G1 to G11 | DEVICE_FEATURE and migration |
//! | `life` | L1 to L9 | sessions that begin and end, or do neither |
//! | `budgets` | | everything that a client can make us hold, up to its limit |
//!
//! A test's name begins with its row; [`rows`] says which other tests are the row, too, and which defects of
//! the C library a row would find. The server is a process of its own ([`target`]): after the script its
//! descriptors, mappings, threads and memory are what they were before, and it serves the next client
//! ([`scene`]). Where the interface in C has to answer otherwise, [`Scene::differs`] says why.
//!
//! `VFU_HOSTILE_FULL=1` repeats what is repeated as often as the rows say.
#![cfg(target_os = "linux")]

mod budgets;
mod descriptors;
mod features;
mod framing;
mod interrupts;
mod life;
mod memory;
mod regions;
mod rows;
mod scene;
mod specimen;
mod talk;
mod target;
mod version;

use scene::{both, both_with, times};
