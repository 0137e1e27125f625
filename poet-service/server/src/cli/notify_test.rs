//! `poet-service notify-test`.

use std::process::ExitCode;

use anyhow::bail;
use poet_service::{args::ServerArgs, config::Config};

/// Send a test event to --notify-command and --notify-url
///
/// Takes the options of the server, and works while it runs. Exit code: 0 all received it, 1 some
/// did not, or there is no receiver.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    let told = config.notify.test();
    if told.is_empty() {
        bail!("no receiver is configured: expected --notify-command or --notify-url");
    }
    let mut code = ExitCode::SUCCESS;
    for (receiver, result) in told {
        match result {
            Ok(()) => println!("{receiver}: delivered"),
            Err(error) => {
                println!("{receiver}: not delivered: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
