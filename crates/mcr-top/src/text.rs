//! Numbers and times as people read them.

/// Three digits and a unit: `0`, `7.5`, `312`, `1.40M`.
pub fn human(value: f64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut value = value;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 && value.fract() == 0.0 => 0,
        value if value < 9.995 && unit > 0 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", UNITS[unit])
}

/// Time of day, UTC.
pub(crate) fn time(time_ns: u64) -> String {
    let seconds = time_ns / 1_000_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (value, want) in [
            (0.0, "0"),
            (7.5, "7.5"),
            (312.0, "312"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (999_999.0, "1.00M"),
            (1.4e9, "1.40G"),
            (1.8e19, "18.0E"),
        ] {
            assert_eq!(human(value), want);
        }
    }
}
