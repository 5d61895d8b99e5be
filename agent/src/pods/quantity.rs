//! Kubernetes quantities (`100m`, `1.5`, `1e3`, `128Mi`): a text -> an exact number.
//!
//! The grammar and the rounding are those of k8s.io/apimachinery, pkg/api/resource/quantity.go: decimal suffixes from `n` to `E`,
//! binary ones from `Ki` to `Ei`, or a decimal exponent; what is finer than 10^-9 is rounded up, what is larger than 2^63 - 1 is
//! capped there.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// 10^-9: the finest part that a quantity has.
const NANO: u128 = 1_000_000_000;

/// The largest quantity.
const LARGEST: u128 = i64::MAX as u128 * NANO;

/// An amount of CPUs, bytes or whatever is counted: never negative, never more than 2^63 - 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nano: u128,
}

/// Why a text is not a valid quantity of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No digits, or something among them.
    #[error("expected digits, perhaps with a point among them")]
    Number,
    /// Something after the number.
    #[error("expected one of the suffixes n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei, or an exponent such as e3")]
    Suffix,
    /// Less than nothing.
    #[error("must not be negative")]
    Negative,
}

impl Quantity {
    /// As a number: CPUs.
    pub fn cores(self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// In thousandths, rounded up as Kubernetes does: thousandths of a CPU.
    pub fn milli(self) -> u64 {
        u64::try_from(self.nano.div_ceil(NANO / 1000)).unwrap_or(u64::MAX)
    }

    /// As a whole number, rounded up as Kubernetes does: bytes.
    pub fn bytes(self) -> u64 {
        // At most i64::MAX by construction.
        u64::try_from(self.nano.div_ceil(NANO)).unwrap_or(u64::MAX)
    }

    /// The sum, capped like any quantity.
    pub fn plus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano).min(LARGEST) }
    }

    /// The difference, never less than nothing.
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano) }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::Number);
        }
        let scale = Scale::of(suffix)?;
        let nano = scale.nano(whole, fraction);
        if negative && nano > 0 {
            return Err(QuantityError::Negative);
        }
        Ok(Self { nano })
    }
}

/// What a suffix stands for.
#[derive(Clone, Copy)]
enum Scale {
    /// Times 10^n.
    Decimal(i32),
    /// Times 2^n.
    Binary(u32),
}

impl Scale {
    fn of(suffix: &str) -> Result<Self, QuantityError> {
        Ok(match suffix {
            "" => Self::Decimal(0),
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
                Self::Decimal(digits.parse().map_err(|_| QuantityError::Suffix)?)
            }
        })
    }

    /// The number with these digits before and after the point, scaled, in 10^-9, rounded up and capped.
    fn nano(self, whole: &str, fraction: &str) -> u128 {
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
        let Some(first) = digits.iter().position(|digit| *digit != 0) else { return 0 };
        let (power, factor) = match self {
            Self::Decimal(power) => (power, 1),
            Self::Binary(power) => (0, 1_u128 << power),
        };
        // The point's place among the digits, counted in 10^-9.
        let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(i64::from(power)).saturating_add(9);
        let leading = point.saturating_sub(i64::try_from(first).unwrap_or(i64::MAX));
        // More than 10^28 times 10^-9 is past the cap. Far below the point, all that is left is that it is more than zero.
        if leading > 28 {
            return LARGEST;
        }
        let mut nano: u128 = 0;
        let mut finer = false;
        let mut place = leading;
        // A binary factor makes digits count that lie below 10^-9: nine more of them are read exactly, the rest is rounded up.
        let extra: i64 = if factor > 1 { 9 } else { 0 };
        for &digit in &digits[first..] {
            if place <= -extra {
                finer |= digit != 0;
            } else {
                nano = nano * 10 + u128::from(digit);
                place -= 1;
            }
        }
        for _ in -extra..place {
            nano = nano.saturating_mul(10);
        }
        let nano = nano.saturating_mul(factor);
        let divisor = 10_u128.pow(extra as u32);
        let rest = nano % divisor != 0 || finer;
        (nano / divisor).saturating_add(u128::from(rest)).min(LARGEST)
    }
}

/// From a string, or from a number as people write it and the API server takes it.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity { nano: (u128::from(number) * NANO).min(LARGEST) })
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                u64::try_from(number).map_err(|_| E::custom(QuantityError::Negative)).and_then(|number| self.visit_u64(number))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
                number.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nano(text: &str) -> Option<u128> {
        text.parse::<Quantity>().ok().map(|quantity| quantity.nano)
    }

    #[test]
    fn quantities_that_people_write() {
        let units = |units: u128| Some(units * NANO);
        for (text, expected) in [
            ("100m", Some(100_000_000)),
            ("1.5", Some(1_500_000_000)),
            ("1e3", units(1000)),
            ("1E3", units(1000)),
            ("12e-3", Some(12_000_000)),
            ("128Mi", units(128 << 20)),
            ("1G", units(1_000_000_000)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("+1", units(1)),
            (".5", Some(500_000_000)),
            ("5.", units(5)),
            ("0.1Gi", Some(107_374_182_400_000_000)),
            ("1n", Some(1)),
            ("0.5n", Some(1)),
            ("0.0000000000000000000000000001Ei", Some(1)),
            ("250u", Some(250_000)),
            ("8Ei", Some(LARGEST)),
            ("1e400", Some(LARGEST)),
            ("1e2147483647", Some(LARGEST)),
            ("1e-2147483648", Some(1)),
            ("99999999999999999999999999999999999999999999", Some(LARGEST)),
            ("0000000000000000000000000000000000000000000001", units(1)),
        ] {
            assert_eq!(nano(text), expected, "{text}");
        }
        for nonsense in [
            "", "-1", "m", "1..2", "1.2.3", "1 Mi", " 1", "1 ", "1mi", "1KI", "NaN", "inf", "0x10", "1e", "1e3m", "1Mi3", "१",
            "-", ".",
        ] {
            assert_eq!(nano(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn bytes_are_rounded_up() {
        let bytes = |text: &str| text.parse::<Quantity>().map(Quantity::bytes);
        assert_eq!(bytes("100m"), Ok(1), "Kubernetes makes one byte of a tenth");
        assert_eq!(bytes("0.1Gi"), Ok(107_374_183));
        assert_eq!(bytes("9E"), Ok(9_000_000_000_000_000_000));
        assert_eq!(bytes("10E"), Ok(i64::MAX as u64));
    }

    #[test]
    fn json_has_strings_and_numbers() {
        let parse = |json: &str| serde_json::from_str::<Quantity>(json).ok().map(|quantity| quantity.nano);
        assert_eq!(parse("\"250m\""), Some(250_000_000));
        assert_eq!((parse("2"), parse("1.5")), (Some(2 * NANO), Some(1_500_000_000)));
        assert_eq!((parse("-2"), parse("true"), parse("null"), parse("\"x\"")), (None, None, None, None));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = nano(&text);
        }

        #[test]
        fn any_number_with_any_suffix_is_read_to_its_last_bit(
            whole in 0_u64..1_000_000_000, places in 0_usize..9, fraction in 0_u32..1_000_000_000,
            (suffix, factor) in prop::sample::select(vec![
                ("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9),
                ("Ki", 1024.0), ("Mi", 1_048_576.0), ("Gi", 1_073_741_824.0), ("e-3", 1e-3), ("E6", 1e6),
            ]),
        ) {
            let digits = &format!("{fraction:09}")[..places];
            let text = if places == 0 { format!("{whole}{suffix}") } else { format!("{whole}.{digits}{suffix}") };
            // The standard library's own reading of the number, times the suffix as a number.
            let expected = format!("{whole}.{digits}0").parse::<f64>().expect("a number") * factor * 1e9;
            let expected = expected.min(LARGEST as f64);
            let found = nano(&text).expect("a quantity") as f64;
            // Rounded up to a whole 10^-9, and a double holds 15 digits.
            prop_assert!((found - expected).abs() <= 1.0 + expected * 1e-12, "{text}: {found} {expected}");
        }

        #[test]
        fn more_is_never_less(a in 0_u64..u64::MAX, b in 0_u64..u64::MAX, suffix in prop::sample::select(vec!["n", "m", "", "Ki", "Ei"])) {
            let read = |n: u64| format!("{n}{suffix}").parse::<Quantity>().expect("a quantity");
            prop_assert_eq!(read(a.min(b)) <= read(a.max(b)), true);
            prop_assert!(read(a).cores().is_finite());
        }
    }

    #[test]
    fn any_text_is_a_quantity_within_bounds_or_refused() {
        crate::fuzzing::hammer("quantity", |bytes| {
            let Ok(quantity) = String::from_utf8_lossy(bytes).parse::<Quantity>() else { return };
            assert!(quantity.cores() >= 0.0 && quantity.cores() <= i64::MAX as f64, "{quantity:?}");
            assert!(quantity.bytes() <= i64::MAX as u64 && quantity.plus(quantity) >= quantity, "{quantity:?}");
        });
    }
}
