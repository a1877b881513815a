//! Programs that were built for an older interface of the same name.

/// Smaller numbers are never addresses: the kernel maps nothing there.
const LOWEST: usize = 0x10000;

/// Whether a number is an address of code in this process. A count of regions that happens to be one
/// would have to be larger than where programs begin, 4 MiB.
pub(crate) fn is_code(number: usize) -> bool {
    if number < LOWEST {
        return false;
    }
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        // Without /proc: no count is as large as a pointer into a library or a PIE.
        return number > u32::MAX as usize;
    };
    maps.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().and_then(|range| range.split_once('-'));
        let executable = words.next().is_some_and(|flags| flags.as_bytes().get(2) == Some(&b'x'));
        let parse = |hex: &str| usize::from_str_radix(hex, 16).ok();
        let range = range.and_then(|(from, to)| parse(from).zip(parse(to)));
        executable && range.is_some_and(|(from, to)| (from..to).contains(&number))
    })
}

#[cfg(test)]
mod tests {
    use super::is_code;

    #[test]
    fn counts_and_code_are_told_apart() {
        for count in [1, 64, 4096, 65535, 1000 * 1000, 1 << 20, u32::MAX as usize] {
            assert!(!is_code(count), "{count}");
        }
        assert!(is_code(is_code as *const () as usize));
        let data = 1u8;
        assert!(!is_code(std::ptr::from_ref(&data) as usize));
    }
}
