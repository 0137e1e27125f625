use std::ffi::OsString;
use std::time::Instant;

use poet_backend_generic::Generic;
use poet_conformance::suite;
use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV, Sha256, State, WorkFunction};

use super::*;

const SHA256: WorkFunction = WorkFunction::Sha256;

/// A kernel that is right except in one case.
struct Fake(Wrong);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    /// Two blocks are compressed without the first's feed-forward reaching the second.
    SecondBlock,
    /// The last step of a label.
    ManySteps,
    /// Single steps.
    Steps,
    /// The remainder after three full vectors of four.
    LastChain,
    /// Only with as many chains as a vector has lanes, and only with the steps of a label.
    ChainsOfLabel,
    /// The last of several messages.
    LastMessage,
    /// A single node.
    Node,
    /// The remainder after a full vector of nodes.
    LastNode,
}

impl Sha256 for Fake {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        Generic::get().compress(state, blocks);
        if self.0 == Wrong::SecondBlock && blocks.len() == 2 {
            state[3] ^= 1;
        }
    }

    fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
        Generic::get().hash_many(start, messages, digests);
        if self.0 == Wrong::LastMessage && digests.len() == 31 {
            digests[30][28] ^= 1 << 7;
        }
    }

    fn hash_nodes(&self, message: &NodeMessage, children: &[[Node; 2]], parents: &mut [Node]) {
        Generic::get().hash_nodes(message, children, parents);
        match (self.0, parents) {
            (Wrong::Node, [node]) => node[31] ^= 1,
            (Wrong::LastNode, [nodes @ .., last]) if nodes.len() == 16 => last[0] ^= 1,
            _ => {}
        }
    }
}

impl Chain for Fake {
    fn one(&self, digest: &mut Node, n: u32) {
        Generic::get().one(digest, n);
        if self.0 == Wrong::Steps || self.0 == Wrong::ManySteps && n == 399 {
            digest[31] ^= 1;
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        Generic::get().many(digests, n);
        if self.0 == Wrong::LastChain && digests.len() == 13
            || self.0 == Wrong::ChainsOfLabel && digests.len() >= 16 && n == 399
        {
            digests[12][0] ^= 0x80;
        }
    }
}

macro_rules! fake {
    ($name:literal, $roles:expr, $wrong:expr) => {
        Row {
            name: $name,
            function: SHA256,
            roles: $roles,
            missing: Vec::new,
            get: || {
                Some(BackendKernels {
                    chain: &Fake($wrong),
                    sha256: Some(&Fake($wrong)),
                })
            },
        }
    };
}

fn unsupported() -> Row {
    Row {
        name: "unsupported",
        function: SHA256,
        roles: Roles::Both,
        missing: || vec!["sse5", "sha3"],
        get: || None,
    }
}

/// Chooses from `rows`, without a trial.
fn choice(rows: &[Row], name: Option<&str>) -> Result<Selection, SelectError> {
    let forced = forced(name, None);
    choose(
        rows,
        SHA256,
        forced.as_ref(),
        &evaluate(rows, SHA256, false),
    )
}

#[test]
fn a_wrong_kernel_is_excluded_with_a_warning() {
    for (row, failure) in [
        (
            fake!("wrong", Roles::Both, Wrong::SecondBlock),
            "a message of 2 blocks is hashed wrong",
        ),
        (
            fake!("wrong", Roles::Both, Wrong::ManySteps),
            "one chain of 399 steps ends wrong",
        ),
        (
            fake!("wrong", Roles::Both, Wrong::Steps),
            "a chain of 1000 single steps ends wrong",
        ),
        (
            fake!("wrong", Roles::Both, Wrong::LastChain),
            "13 chains of 1 steps end wrong",
        ),
        (
            fake!("wrong", Roles::Throughput, Wrong::ChainsOfLabel),
            "17 chains of 399 steps end wrong",
        ),
        (
            fake!("wrong", Roles::Throughput, Wrong::LastMessage),
            "31 messages at once are hashed wrong",
        ),
        (
            fake!("wrong", Roles::Throughput, Wrong::Node),
            "a node is hashed wrong",
        ),
        (
            fake!("wrong", Roles::Throughput, Wrong::LastNode),
            "17 nodes at once are hashed wrong",
        ),
    ] {
        let rows = [row, fake!("right", Roles::Both, Wrong::Nothing)];
        let selection = choice(&rows, None).unwrap();
        assert_eq!(selection.latency().name, "right");
        assert_eq!(selection.throughput().name, "right");
        assert_eq!(
            selection.warnings(),
            [format!(
                "backend wrong is not used: it failed its self-test: {failure}"
            )]
        );
        let failure = failure.to_owned();
        assert_eq!(
            selection.reports()[0].excluded,
            Some(Excluded::Failed { failure })
        );
        assert!(
            !selection.reports()[0].chosen_latency && !selection.reports()[0].chosen_throughput
        );

        let error = choice(&rows, Some("wrong")).unwrap_err();
        assert!(matches!(error, SelectError::SelfTest { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("backend wrong (forced by --backend) failed")
        );
        assert!(
            error.to_string().ends_with("for sha256 this CPU has right"),
            "{error}"
        );
    }
}

#[test]
fn nothing_is_left_when_all_are_wrong() {
    let rows = [fake!("wrong", Roles::Both, Wrong::Steps), unsupported()];
    assert_eq!(
        choice(&rows, None).unwrap_err().to_string(),
        "there is no usable backend for sha256; backend wrong is not used: it failed its \
         self-test: a chain of 1000 single steps ends wrong"
    );
    assert_eq!(
        choice(&rows, Some("unsupported")).unwrap_err().to_string(),
        "backend unsupported (forced by --backend) is not supported: the CPU lacks sse5, sha3; \
         this CPU has none for sha256"
    );
}

#[test]
fn a_kernel_for_many_chains_is_not_chosen_for_one() {
    let rows = [fake!("lanes", Roles::Throughput, Wrong::Nothing)];
    assert!(matches!(
        choice(&rows, None),
        Err(SelectError::NoBackend { .. })
    ));
    assert!(matches!(
        choice(&rows, Some("lanes")),
        Err(SelectError::NoBackend { .. })
    ));
}

#[test]
fn forcing_a_kernel() {
    let rows = [
        fake!("lanes", Roles::Throughput, Wrong::Nothing),
        fake!("first", Roles::Both, Wrong::Nothing),
        unsupported(),
        fake!("second", Roles::Both, Wrong::Nothing),
        fake!("more-lanes", Roles::Throughput, Wrong::Nothing),
    ];
    let names = |name| {
        let selection = choice(&rows, name).unwrap();
        let (latency, throughput) = (selection.latency(), selection.throughput());
        (
            latency.name,
            latency.reason,
            throughput.name,
            throughput.reason,
        )
    };
    let (preferred, forced) = (Reason::Preference, Reason::ForcedByOption);
    assert_eq!(names(None), ("first", preferred, "lanes", preferred));
    assert_eq!(names(Some("second")), ("second", forced, "second", forced));
    assert_eq!(
        names(Some("more-lanes")),
        ("first", preferred, "more-lanes", forced)
    );
    for name in [None, Some("first"), Some("second")] {
        assert!(choice(&rows, name).unwrap().for_one_chain().is_ok());
    }
    let selection = choice(&rows, Some("more-lanes")).unwrap();
    assert_eq!(
        selection.for_one_chain().unwrap_err().to_string(),
        "backend more-lanes (forced by --backend) hashes only many chains at once, and this work is \
         one chain; for sha256 this CPU has first, second"
    );

    for name in ["third", "", "Second", "second "] {
        let error = choice(&rows, Some(name)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "unknown backend {name:?} (forced by --backend); for sha256 this CPU has lanes, \
                 first, second, more-lanes"
            )
        );
    }
}

#[test]
fn the_option_goes_before_the_environment() {
    let by = |option, environment: Option<&str>| {
        forced(option, environment.map(OsString::from)).map(|forced| (forced.name, forced.reason))
    };
    let option = || Some(("a".to_owned(), Reason::ForcedByOption));
    assert_eq!(by(None, None), None);
    assert_eq!(by(None, Some("")), None);
    assert_eq!(
        by(None, Some("b")),
        Some(("b".to_owned(), Reason::ForcedByEnvironment))
    );
    assert_eq!(by(Some("a"), None), option());
    assert_eq!(by(Some("a"), Some("b")), option());
}

#[test]
fn the_trial_chooses_by_role_and_margin() {
    let rows = [
        fake!("first", Roles::Both, Wrong::Nothing),
        fake!("second", Roles::Both, Wrong::Nothing),
        fake!("lanes", Roles::Throughput, Wrong::Nothing),
    ];
    let names = |rates: [(f64, f64); 3]| {
        let mut candidates = evaluate(&rows, SHA256, false);
        for (candidate, (one, many)) in candidates.iter_mut().zip(rates) {
            candidate.rates.many = Some(many);
            if candidate.roles == Roles::Both {
                candidate.rates.one = Some(one);
            }
        }
        let selection = choose(&rows, SHA256, None, &candidates).unwrap();
        assert_eq!(selection.latency().reason, Reason::Fastest);
        assert_eq!(selection.throughput().reason, Reason::Fastest);
        let chosen = selection
            .reports()
            .iter()
            .find(|report| report.chosen_latency)
            .unwrap();
        assert_eq!(chosen.name, selection.latency().name);
        assert_eq!(chosen.one_hashes_per_s, selection.latency().hashes_per_s);
        (selection.latency().name, selection.throughput().name)
    };
    assert_eq!(
        names([(1.0, 1.0), (1.0, 1.0), (0.0, 1.0)]),
        ("first", "first")
    );
    assert_eq!(
        names([(1.0, 1.0), (1.005, 1.005), (0.0, 1.005)]),
        ("first", "first")
    );
    assert_eq!(
        names([(1.0, 1.0), (1.02, 1.0), (0.0, 1.02)]),
        ("second", "lanes")
    );
    assert_eq!(
        names([(1.0, 3.0), (1.02, 1.0), (0.0, 2.0)]),
        ("second", "first")
    );
}

#[test]
fn what_is_chosen_here_is_right() {
    for row in ROWS {
        if let Err(Excluded::Unsupported { missing }) = detect(row).map(|_| ()) {
            let reason = format!("the CPU lacks {}", missing.join(", "));
            suite::not_tested(row.name, &reason);
            continue;
        }
        let options = SelectOptions {
            forced: Some(row.name),
            trial: false,
        };
        let selection = select_with(row.function, options).unwrap();
        assert_eq!(selection.throughput().name, row.name);
        assert!(selection.warnings().is_empty());
        let work = selection.work(400).unwrap();
        let (mut digest, mut expected) = ([[9; 32]; 5], [9; 32]);
        work.finish_labels(&mut digest);
        work.finish_label(&mut expected);
        assert_eq!(digest, [expected; 5]);
        if row.function == SHA256 {
            let mut digest = [9; 32];
            Generic::get().one(&mut digest, 399);
            assert_eq!(digest, expected);
        }
        let messages: [&[Block]; 3] = [&[[5; 64]; 2]; 3];
        let (mut digests, mut expected) = ([[0; 32]; 3], [[1; 32]; 3]);
        let wide = work.kernels().wide_sha256;
        wide.hash_many(&SHA256_IV, &messages, &mut digests);
        Generic::get().hash_many(&SHA256_IV, &messages, &mut expected);
        assert_eq!(digests, expected);
        assert!(selection.work(0).is_err());
    }
}

#[test]
fn the_survey_has_every_kernel_with_its_rates() {
    let start = Instant::now();
    let reports = survey(SHA256);
    println!("a survey takes {:?}", start.elapsed());
    assert_eq!(
        reports.len(),
        ROWS.iter().filter(|row| row.function == SHA256).count()
    );
    for report in reports {
        println!("{report:?}");
        let ready = report.excluded.is_none();
        assert_eq!(report.one_hashes_per_s.is_some(), ready && report.latency);
        assert_eq!(report.many_hashes_per_s.is_some(), ready);
        assert!(ready || !report.chosen_latency && !report.chosen_throughput);
    }
}

#[test]
fn no_kernel_for_the_function_is_an_error() {
    let rows = [fake!("right", Roles::Both, Wrong::Nothing)];
    let candidates = evaluate(&rows, WorkFunction::Haraka256, true);
    let error = choose(&rows, WorkFunction::Haraka256, None, &candidates).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no usable backend for haraka256"
    );
}
