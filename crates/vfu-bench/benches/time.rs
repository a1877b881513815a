//! How long single operations take, for criterion: to be compared with earlier runs of its own.
//! `vfu bench` has the whole table, each beside its limit.
//!
//!     cargo bench -p vfu-bench --bench time

use std::time::Duration;

use criterion::Criterion;
use vfu_bench::operations;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for operation in operations::all() {
        let mut step = operation.start().expect("the machine has what it takes");
        criterion.bench_function(operation.name, |b| b.iter(|| step().expect("it works again")));
    }
    criterion.final_summary();
}
