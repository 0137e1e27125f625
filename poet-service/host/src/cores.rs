/// The most cores in an affinity mask.
pub const MAX_CORES: usize = 1024;

/// Formats core numbers for messages: `0,1,8`.
#[must_use]
pub fn list(cores: &[usize]) -> String {
    let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
    cores.join(",")
}
