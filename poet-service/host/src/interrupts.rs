//! Which interrupts a core serves.

use std::path::Path;

use crate::read::text;

/// The interrupts that each core has served since boot, from `/proc/interrupts`: a column for each
/// core, and a row for each source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    cores: Vec<usize>,
    sources: Vec<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    /// A number for devices, letters for the system's own.
    id: String,
    name: String,
    counts: Vec<u64>,
}

impl Interrupts {
    /// Reads the table; `None` if the system does not report it.
    #[must_use]
    pub fn read(root: &Path) -> Option<Self> {
        Some(Self::parse(&text(root, "proc/interrupts")?))
    }

    fn parse(table: &str) -> Self {
        let mut rows = table.lines();
        let header = rows.next().unwrap_or_default().split_whitespace();
        let cores: Vec<usize> = header
            .filter_map(|name| name.strip_prefix("CPU")?.parse().ok())
            .collect();
        let sources = rows.filter_map(|row| {
            let (id, columns) = row.split_once(':')?;
            let mut fields = columns.split_whitespace().peekable();
            let mut counts = Vec::new();
            while counts.len() < cores.len()
                && let Some(count) = fields.peek().and_then(|field| field.parse().ok())
            {
                counts.push(count);
                fields.next();
            }
            let id = id.trim().to_owned();
            let words: Vec<&str> = fields.collect();
            let name = match (is_device(&id), words.as_slice()) {
                // The controller and the kind of signal precede the device.
                (true, [_, _, name @ ..]) if !name.is_empty() => name.join(" "),
                (_, []) => id.clone(),
                (_, words) => words.join(" "),
            };
            Some(Source { id, name, counts })
        });
        let sources = sources.collect();
        Self { cores, sources }
    }

    fn column(&self, core: usize) -> Option<usize> {
        self.cores.iter().position(|id| *id == core)
    }

    /// Returns the number of device interrupts that a core has served; `None` for an unknown core.
    #[must_use]
    pub fn of_devices(&self, core: usize) -> Option<u64> {
        let column = self.column(core)?;
        let devices = self.sources.iter().filter(|source| is_device(&source.id));
        Some(devices.filter_map(|source| source.counts.get(column)).sum())
    }

    /// Returns what `core` has served since `earlier`, by source, most frequent first.
    #[must_use]
    pub fn since(&self, earlier: &Self, core: usize) -> Vec<(String, u64)> {
        let count = |all: &Self, id: &str| -> Option<u64> {
            let source = all.sources.iter().find(|source| source.id == id)?;
            source.counts.get(all.column(core)?).copied()
        };
        let served = self.sources.iter().filter_map(|source| {
            let before = count(earlier, &source.id).unwrap_or(0);
            let count = count(self, &source.id)?.checked_sub(before)?;
            (count > 0).then(|| (source.name.clone(), count))
        });
        let mut served: Vec<_> = served.collect();
        served.sort_by(|(_, a), (_, b)| b.cmp(a));
        served
    }
}

fn is_device(id: &str) -> bool {
    id.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "           CPU0       CPU2
  1:         10          0  IO-APIC   1-edge      i8042
 36:          5    5081051  PCI-MSIX-0000:00:03.0  1-edge virtio1-req.0
LOC:    6415006    6655821  Local timer interrupts
ERR:          3
 40:          x          1";

    #[test]
    fn interrupts_of_devices_are_counted_by_core() {
        let interrupts = Interrupts::parse(TABLE);
        assert_eq!(interrupts.of_devices(0), Some(15));
        assert_eq!(interrupts.of_devices(2), Some(5_081_051));
        assert_eq!(interrupts.of_devices(1), None);
        assert_eq!(Interrupts::parse("").of_devices(0), None);
        assert_eq!(Interrupts::read(Path::new("/nonexistent")), None);
    }

    #[test]
    fn what_came_meanwhile_has_a_name() {
        let before = Interrupts::parse(TABLE);
        let after = TABLE
            .replace("6655821", "6655921")
            .replace("5081051", "5081351");
        let after = Interrupts::parse(&after);
        let expected = [
            ("virtio1-req.0".to_owned(), 300),
            ("Local timer interrupts".to_owned(), 100),
        ];
        assert_eq!(after.since(&before, 2), expected);
        assert!(after.since(&before, 0).is_empty());
        assert!(after.since(&before, 7).is_empty());
        // The counts of a core that was offline start again.
        assert!(before.since(&after, 2).is_empty());
        assert_eq!(after.since(&Interrupts::default(), 0).len(), 4);
    }
}
