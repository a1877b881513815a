//! What things cost: each row of the table is an operation of vfu, and the least that the machine
//! takes for the same, its *limit*, measured in turns in the same run.
//!
//! A time by itself says more of the machine than of the program, and on a shared machine not even
//! that. The ratio of two things that see the same weather says what vfu adds.
//!
//! ```no_run
//! use vfu_bench::{Effort, rows};
//!
//! // A program that measures is its own other end: see `roles`.
//! if let Some(code) = vfu_bench::roles::enter() {
//!     std::process::exit(code);
//! }
//! for row in rows::all() {
//!     let measured = row.measure(Effort::Quick)?;
//!     println!("{}: {:.2} times the limit", row.name, measured.ratio.median);
//! }
//! # anyhow::Ok(())
//! ```

pub mod instructions;
pub mod machine;
mod measure;
pub mod operations;
pub mod place;
pub mod report;
pub mod roles;
mod row;
pub mod rows;
mod stats;

pub use measure::Effort;
pub use row::{Counted, Group, Measured, Row};
pub use stats::{Figures, Ratio};
