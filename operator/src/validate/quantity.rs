//! Quantities of Kubernetes, as far as sizes need them: for comparing, not for writing back.

/// The suffixes of a quantity and what they multiply by.
const SUFFIXES: [(&str, f64); 14] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
];

/// The bytes of a quantity; exact for whole binary sizes. None if it is none.
pub fn bytes(text: &str) -> Option<f64> {
    let plain = |number: &str| {
        let shaped = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
        if number.chars().all(shaped) { number.parse::<f64>().ok() } else { None }
    };
    let by_suffix = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some(plain(text.strip_suffix(suffix)?)? * factor));
    // "E" alone is a suffix, between digits an exponent.
    by_suffix.or_else(|| Some(plain(text.strip_suffix('E')?)? * 1e18)).or_else(|| plain(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, wanted) in [
            ("1Gi", Some(1_073_741_824.0)),
            ("1024Mi", Some(1_073_741_824.0)),
            ("1073741824", Some(1_073_741_824.0)),
            ("1.5Gi", Some(1_610_612_736.0)),
            ("1G", Some(1e9)),
            ("1e9", Some(1e9)),
            ("1E9", Some(1e9)),
            ("2E", Some(2e18)),
            ("500m", Some(0.5)),
            ("", None),
            ("Gi", None),
            ("1 Gi", None),
            ("inf", None),
            ("1GiB", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text:?}");
        }
    }
}
