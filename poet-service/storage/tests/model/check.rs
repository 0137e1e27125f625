//! Visits every state that a model can reach.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Debug,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// More than any model here has.
const MAX_STATES: usize = 8_000_000;

/// A fast hash for many small numbers.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A model, which can take one of several steps at any time.
pub(crate) trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Step: Copy + Debug;

    fn start(&self) -> Self::State;

    /// Returns all possible steps, with the states to which they lead.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;

    /// Returns an invariant that the state violates.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Returns an invariant that the step violates.
    fn broken_step(
        &self,
        before: &Self::State,
        step: Self::Step,
        after: &Self::State,
    ) -> Option<&'static str>;

    /// Returns whether everything is done. Such a state must be reachable from every state.
    fn done(&self, state: &Self::State) -> bool;
}

/// The invariant that is violated if no such state can be reached.
pub(crate) const ENDS: &str = "when the faults end, every round ends well";

/// A violation of an invariant.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    /// A shortest sequence of steps to it.
    pub(crate) steps: Vec<String>,
}

/// Visits all states, and returns their number.
pub(crate) fn explore<M: Model>(model: &M) -> Result<usize, Broken> {
    let start = model.start();
    let mut known: HashMap<_, usize, BuildHasherDefault<Mixed>> = HashMap::default();
    known.insert(start.clone(), 0);
    let mut states = vec![start];
    // The state and the step from which each state was first reached.
    let mut reached: Vec<Option<(usize, M::Step)>> = vec![None];
    let mut edges = Vec::new();
    let way = |reached: &[Option<(usize, M::Step)>], mut place: usize, last: Option<M::Step>| {
        let mut steps: Vec<_> = last.iter().map(|step| format!("{step:?}")).collect();
        while let Some((from, step)) = &reached[place] {
            steps.push(format!("{step:?}"));
            place = *from;
        }
        steps.reverse();
        steps
    };
    let mut place = 0;
    while place < states.len() {
        let state = states[place].clone();
        if let Some(invariant) = model.broken(&state) {
            let steps = way(&reached, place, None);
            return Err(Broken { invariant, steps });
        }
        for (step, next) in model.steps(&state) {
            if let Some(invariant) = model.broken_step(&state, step, &next) {
                let steps = way(&reached, place, Some(step));
                return Err(Broken { invariant, steps });
            }
            if next == state {
                continue;
            }
            let to = match known.entry(next) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let number = states.len();
                    states.push(new.key().clone());
                    reached.push(Some((place, step)));
                    *new.insert(number)
                }
            };
            edges.push((to as u32, place as u32));
        }
        assert!(states.len() < MAX_STATES, "too many states");
        place += 1;
    }
    match without_end(model, &states, edges) {
        Some(place) => Err(Broken {
            invariant: ENDS,
            steps: way(&reached, place, None),
        }),
        None => Ok(states.len()),
    }
}

/// Returns a state from which no final state can be reached.
fn without_end<M: Model>(
    model: &M,
    states: &[M::State],
    mut edges: Vec<(u32, u32)>,
) -> Option<usize> {
    edges.sort_unstable();
    let mut ends: Vec<bool> = states.iter().map(|state| model.done(state)).collect();
    let mut open: Vec<u32> = (0..)
        .zip(&ends)
        .filter(|(_, end)| **end)
        .map(|(i, _)| i)
        .collect();
    while let Some(place) = open.pop() {
        let first = edges.partition_point(|(to, _)| *to < place);
        for (_, from) in edges[first..].iter().take_while(|(to, _)| *to == place) {
            if !ends[*from as usize] {
                ends[*from as usize] = true;
                open.push(*from);
            }
        }
    }
    ends.iter().position(|end| !end)
}

/// Checks that leaving out a rule violates the invariant that the rule is for.
pub(crate) fn assert_caught<M: Model>(name: &str, model: &M, invariant: &str) {
    match explore(model) {
        Ok(states) => panic!("without the rule {name} nothing breaks in {states} states"),
        Err(broken) => {
            println!("without {name}: {broken:?}");
            assert_eq!(broken.invariant, invariant, "{name}: {:?}", broken.steps);
            assert!(!broken.steps.is_empty());
        }
    }
}
