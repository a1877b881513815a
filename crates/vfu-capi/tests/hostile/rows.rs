//! Which test is which row.
