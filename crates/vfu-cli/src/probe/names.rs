//! Names of what VFIO numbers.

/// VFIO's name of a region.
pub(super) fn region(index: u32) -> String {
    match index {
        0..=5 => format!("BAR{index}"),
        6 => "ROM".into(),
        7 => "config".into(),
        8 => "VGA".into(),
        _ => format!("region{index}"),
    }
}
