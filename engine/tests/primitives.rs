//! Labels and nodes made one by one equal those of the tree.

#![allow(clippy::unwrap_used)]

use poet_backend_generic::{Generic, GenericHaraka};
use poet_engine::{Kernels, MAX_LEAVES, Node, Tree, TreeError, Work, WorkFunction};

fn work(function: WorkFunction) -> Work {
    let sha256 = Generic::get();
    let kernels = match function {
        WorkFunction::Sha256 => Kernels {
            sha256,
            chain: sha256,
            wide_sha256: sha256,
            wide_chain: sha256,
        },
        WorkFunction::Haraka256 => Kernels {
            sha256,
            chain: GenericHaraka::get(),
            wide_sha256: sha256,
            wide_chain: GenericHaraka::get(),
        },
    };
    Work::new(function, 5, kernels).unwrap()
}

#[test]
fn single_labels_and_nodes_are_those_of_the_tree() {
    for function in [WorkFunction::Sha256, WorkFunction::Haraka256] {
        let work = work(function);
        for statement_bytes in [0, 1, 32, 55, 64, 100, 200] {
            let statement = vec![0x5a; statement_bytes];
            let mut tree = Tree::new(&work, &statement);
            for index in 0..70 {
                let siblings = tree.parked().to_vec();
                let label = work.label(&statement, index, &siblings).unwrap();
                assert_eq!(label, tree.next_label());
                let mut below = label;
                let mut left = siblings.iter();
                tree.push(label, |height, _, node| {
                    if height > 0 {
                        below = work.node(&statement, left.next().unwrap(), &below);
                    }
                    assert_eq!(*node, below);
                });
            }
        }
    }
}

#[test]
fn siblings_that_do_not_fit_the_index_are_refused() {
    let work = work(WorkFunction::Sha256);
    let siblings = [Node::default(); 3];
    assert!(work.label(b"", 6, &siblings[..2]).is_ok());
    for given in [0, 1, 3] {
        let refused = work.label(b"", 6, &siblings[..given]);
        let (leaves, expected) = (6, 2);
        assert_eq!(
            refused,
            Err(TreeError::Parked {
                leaves,
                expected,
                given
            })
        );
    }
    let leaves = MAX_LEAVES;
    let refused = work.label(b"", leaves, &siblings[..1]);
    assert_eq!(refused, Err(TreeError::TooManyLeaves { leaves }));
}
