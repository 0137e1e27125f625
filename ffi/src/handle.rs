//! Handles: tickets into a table.
//!
//! To C a handle is a pointer to an incomplete type. It is never an address, but
//!
//! ```text
//! bit 63     1: no address that a program can have, so that reading through it traps
//! bits 60-62 the type
//! bits 48-59 this copy of the library (the address at which it lies)
//! bits 24-47 the generation of the slot, from 1
//! bits 0-23  the slot
//! ```
//!
//! so that it can be checked without touching its object. A freed slot gets the next generation; a
//! slot that has had all of them is not reused. So a closed handle is never mistaken for an open
//! one. The object of a handle is reference-counted: it lives until the last call that uses it has
//! returned.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use crate::poet_status::{NotOpen, NullPointer, OutOfResources, Poisoned};
use crate::status::Error;

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 24;
const MASK: u64 = (1 << 24) - 1;

/// The open handles of a type.
pub(crate) struct Table<T> {
    /// The name of the handles in messages.
    name: &'static str,
    kind: u8,
    slots: RwLock<Slots<T>>,
}

struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u64,
    entry: Option<Arc<Entry<T>>>,
}

struct Entry<T> {
    value: T,
    poisoned: AtomicBool,
}

impl<T> Table<T> {
    /// `kind` must be a different number, from 0 to 7, for each type.
    pub(crate) const fn new(name: &'static str, kind: u8) -> Self {
        Self {
            name,
            kind,
            slots: RwLock::new(Slots {
                slots: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    /// Makes a handle for `value`.
    pub(crate) fn open<C>(&self, value: T) -> Result<*mut C, Error> {
        let poisoned = AtomicBool::new(false);
        let entry = Arc::new(Entry { value, poisoned });
        let mut table = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let index = match table.free.pop() {
            Some(index) => index,
            None if table.slots.len() as u64 > MASK => {
                let name = self.name;
                return Err(Error::new(
                    OutOfResources,
                    format!("too many open {name} handles"),
                ));
            }
            None => {
                table.slots.push(Slot {
                    generation: 1,
                    entry: None,
                });
                (table.slots.len() - 1) as u32
            }
        };
        let slot = &mut table.slots[index as usize];
        slot.entry = Some(entry);
        let ticket = self.mark() | slot.generation << SLOT_BITS | u64::from(index);
        Ok(ptr::without_provenance_mut(ticket as usize))
    }

    /// Closes the handle. Its object is dropped at once, or when the last call that uses it has
    /// returned.
    pub(crate) fn close<C>(&self, handle: *const C) -> Result<(), Error> {
        let (generation, index) = self.parse(handle)?;
        let mut table = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get_mut(index);
        let slot = slot.filter(|slot| slot.generation == generation && slot.entry.is_some());
        let slot = slot.ok_or_else(|| self.not_open())?;
        let entry = slot.entry.take();
        slot.generation += 1;
        if slot.generation < 1 << GENERATION_BITS {
            table.free.push(index as u32);
        }
        // The object's destructor must not run under the lock.
        drop(table);
        drop(entry);
        Ok(())
    }

    /// Calls `body` with the object of `handle`. If it panics, the handle is poisoned.
    pub(crate) fn with<C, R>(
        &self,
        handle: *const C,
        body: impl FnOnce(&T) -> Result<R, Error>,
    ) -> Result<R, Error> {
        struct PoisonOnUnwind<'a>(&'a AtomicBool);
        impl Drop for PoisonOnUnwind<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }

        let entry = self.find(handle)?;
        if entry.poisoned.load(Relaxed) {
            let text = format!("an earlier call with this {} handle panicked", self.name);
            return Err(Error::new(Poisoned, text));
        }
        let guard = PoisonOnUnwind(&entry.poisoned);
        let result = body(&entry.value);
        std::mem::forget(guard);
        result
    }

    /// Calls `check` with the object of `handle`, poisoned or not, and closes the handle if that
    /// permits it.
    pub(crate) fn close_if<C>(
        &self,
        handle: *const C,
        check: impl FnOnce(&T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        check(&self.find(handle)?.value)?;
        self.close(handle)
    }

    fn find<C>(&self, handle: *const C) -> Result<Arc<Entry<T>>, Error> {
        let (generation, index) = self.parse(handle)?;
        let table = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(index);
        let slot = slot.filter(|slot| slot.generation == generation);
        let entry = slot.and_then(|slot| slot.entry.clone());
        entry.ok_or_else(|| self.not_open())
    }

    /// Returns the generation and the slot of a handle.
    fn parse<C>(&self, handle: *const C) -> Result<(u64, usize), Error> {
        if handle.is_null() {
            let name = self.name;
            return Err(Error::new(
                NullPointer,
                format!("the {name} handle is NULL"),
            ));
        }
        let ticket = handle.addr() as u64;
        if ticket >> 48 != self.mark() >> 48 {
            return Err(self.not_open());
        }
        Ok((ticket >> SLOT_BITS & MASK, (ticket & MASK) as usize))
    }

    /// The high bits of this table's handles.
    fn mark(&self) -> u64 {
        // Two copies of the library lie in different pages.
        let copy = (ptr::from_ref(self).addr() as u64 >> 12) & 0xfff;
        1 << 63 | u64::from(self.kind & 7) << 60 | copy << 48
    }

    fn not_open(&self) -> Error {
        let name = self.name;
        let text = format!("this is not an open {name} handle: closed already, or never made");
        Error::new(NotOpen, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::call;
    use crate::poet_status;

    fn number(table: &Table<u32>, handle: *const u8) -> Result<u32, poet_status> {
        table
            .with(handle, |value| Ok(*value))
            .map_err(|error| error.status)
    }

    #[test]
    fn a_closed_handle_stays_closed_when_its_slot_is_used_again() {
        static TABLE: Table<u32> = Table::new("test", 7);
        let first: *mut u8 = TABLE.open(1).unwrap();
        assert_eq!(number(&TABLE, first), Ok(1));
        TABLE.close(first).unwrap();
        let second: *mut u8 = TABLE.open(2).unwrap();
        assert_eq!(number(&TABLE, first), Err(NotOpen));
        assert_eq!(TABLE.close(first).unwrap_err().status, NotOpen);
        assert_eq!(number(&TABLE, second), Ok(2));
        assert_eq!(TABLE.slots.read().unwrap().slots.len(), 1);
    }

    #[test]
    fn a_slot_that_has_had_all_generations_is_not_used_again() {
        static TABLE: Table<u32> = Table::new("test", 7);
        let first: *mut u8 = TABLE.open(1).unwrap();
        TABLE.close(first).unwrap();
        TABLE.slots.write().unwrap().slots[0].generation = (1 << GENERATION_BITS) - 1;
        let last: *mut u8 = TABLE.open(2).unwrap();
        TABLE.close(last).unwrap();
        let other: *mut u8 = TABLE.open(3).unwrap();
        assert_eq!(number(&TABLE, other), Ok(3));
        assert_eq!(number(&TABLE, last), Err(NotOpen));
        assert_eq!(TABLE.slots.read().unwrap().slots.len(), 2);
    }

    #[test]
    fn what_is_no_handle_is_found_out() {
        static TABLE: Table<u32> = Table::new("test", 6);
        static OTHER: Table<u32> = Table::new("other", 5);
        let open: *mut u8 = TABLE.open(1).unwrap();
        assert_eq!(number(&TABLE, ptr::null()), Err(NullPointer));
        assert_eq!(number(&OTHER, open), Err(NotOpen));
        for bit in 0..64 {
            let ticket = open.addr() ^ 1 << bit;
            assert_eq!(
                number(&TABLE, ptr::without_provenance(ticket)),
                Err(NotOpen)
            );
        }
        for ticket in [1, 8, 0x7fff_ffff_ffff, usize::MAX] {
            assert_eq!(
                number(&TABLE, ptr::without_provenance(ticket)),
                Err(NotOpen)
            );
        }
    }

    #[test]
    fn a_panic_poisons_the_handle_which_can_still_be_closed() {
        static TABLE: Table<u32> = Table::new("test", 7);
        let handle: *mut u8 = TABLE.open(1).unwrap();
        let status = call(|| TABLE.with(handle, |_| panic!("on purpose")));
        assert_eq!(status, poet_status::Panic);
        assert_eq!(number(&TABLE, handle), Err(Poisoned));
        TABLE.close_if(handle, |_| Ok(())).unwrap();
        assert_eq!(number(&TABLE, handle), Err(NotOpen));
    }
}
