//! `cpu.weight` (pure): how a request for CPUs becomes a weight, and back.
//!
//! kubelet makes shares of a request, 1024 for each CPU (`MilliCPUToShares`, pkg/kubelet/cm/helpers_linux.go). Who writes the
//! cgroup's file makes a weight of the shares, by one of two curves. kubelet does that for pods, the OCI runtime for containers:
//! one node may have both curves. What is known of a weight without its curve is which of two is larger.

/// The fewest and the most shares.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// How shares become a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// 1 + (shares − 2) × 9999 / 262142, rounded down. kubelet for its pods (`getCPUWeight`, pkg/kubelet/cm/
    /// cgroup_manager_linux.go, as of 1.36), runc before 1.3.2, crun before 1.23.
    Linear,
    /// 10^((l² + 125 l) / 612 − 7/34) rounded up, l = log₂ shares: 1024 shares are the default weight 100
    /// (`ConvertCPUSharesToCgroupV2Value`, opencontainers/cgroups). runc since 1.3.2, crun since 1.23.
    Quadratic,
}

impl Curve {
    /// The weight for so many shares.
    pub fn weight(self, shares: u64) -> u64 {
        let shares = shares.clamp(*SHARES.start(), *SHARES.end());
        match self {
            Self::Linear => 1 + (shares - 2) * 9_999 / 262_142,
            Self::Quadratic => {
                let l = (shares as f64).log2();
                // What only rounding makes larger than a whole number is that number.
                let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0) - 1e-9;
                weight.ceil().clamp(1.0, 10_000.0) as u64
            }
        }
    }

    /// The CPUs that a weight stands for, as nearly as a whole number allows. `None` at the smallest weight, which stands for
    /// no request.
    pub fn cores(self, weight: u64) -> Option<f64> {
        if !(2..=10_000).contains(&weight) {
            return None;
        }
        let weight = weight as f64;
        let shares = match self {
            Self::Linear => 2.0 + (weight - 1.0) * 262_142.0 / 9_999.0,
            Self::Quadratic => {
                let exponent = weight.log10() + 7.0 / 34.0;
                let l = ((125.0_f64.powi(2) + 4.0 * 612.0 * exponent).sqrt() - 125.0) / 2.0;
                l.exp2()
            }
        };
        Some(shares / 1024.0)
    }
}

/// The shares for a request, in thousandths of a CPU.
pub fn shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(*SHARES.start(), *SHARES.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_the_weights_that_kubelet_and_runtimes_write() {
        // Weights as runc 1.3.1 and 1.4.0 write them; 77 and 170 are those of opencontainers/runc#4896.
        for (shares, linear, quadratic) in
            [(2, 1, 1), (20, 1, 6), (102, 4, 17), (256, 10, 35), (1024, 39, 100), (2000, 77, 170), (262_144, 10_000, 10_000)]
        {
            assert_eq!((Curve::Linear.weight(shares), Curve::Quadratic.weight(shares)), (linear, quadratic), "{shares}");
        }
        assert_eq!([0, 20, 100, 250, 1000, 1_000_000_000].map(shares), [2, 20, 102, 256, 1024, 262_144]);
    }

    #[test]
    fn a_weight_gives_the_request_as_nearly_as_its_curve_allows() {
        for milli in [50, 100, 250, 500, 1000, 2000, 3300, 8000, 64_000, 250_000] {
            let cores = milli as f64 / 1000.0;
            let linear = Curve::Linear.cores(Curve::Linear.weight(shares(milli))).expect("a request");
            // One weight spans 26 shares.
            assert!((linear - cores).abs() < 0.028, "{milli}m, linear: {linear}");
            let quadratic = Curve::Quadratic.cores(Curve::Quadratic.weight(shares(milli))).expect("a request");
            let within = (cores * 0.02).max(0.01);
            assert!((quadratic - cores).abs() < within, "{milli}m, quadratic: {quadratic}");
        }
        assert_eq!(Curve::Quadratic.cores(100), Some(1.0), "the default weight, and one CPU");
        for curve in [Curve::Linear, Curve::Quadratic] {
            assert_eq!([0, 1, 10_001].map(|weight| curve.cores(weight)), [None; 3]);
        }
    }
}
