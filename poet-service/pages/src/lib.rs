//! Manual pages and shell completions, generated from the same declarations as `--help`.

use std::{fs, io, path::Path};

use clap::{ArgMatches, Command};
use clap_complete::{Shell, generate_to};
use clap_mangen::generate_to as generate_pages;
use poet_files::{Access, create_directory};

/// The name of the command that writes them. It is for packagers, so `--help` omits it.
const COMMAND: &str = "write-pages";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Adds that command to a program's.
#[must_use]
pub fn with_pages(command: Command) -> Command {
    command.subcommand(
        Command::new(COMMAND)
            .about("Write the manual pages and the completions for shells to DIR/man and DIR/completions")
            .hide(true)
            .arg(
                clap::Arg::new("DIR")
                    .required(true)
                    .value_parser(clap::value_parser!(std::path::PathBuf)),
            ),
    )
}

/// Runs the command that [`with_pages`] added, if it was given. `command` is the program's own.
///
/// # Errors
/// Fails if the files cannot be written.
pub fn write_if_asked(matches: &ArgMatches, command: Command) -> Option<io::Result<()>> {
    let (name, matches) = matches.subcommand()?;
    let folder = matches.try_get_one::<std::path::PathBuf>("DIR").ok()??;
    (name == COMMAND).then(|| write(command, folder))
}

fn write(mut command: Command, folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&pages, &completions] {
        create_directory(folder, Access::Default)?;
    }
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        generate_to(shell, &mut command, &name, &completions)?;
    }
    generate_pages(command, &pages)?;
    // `help`, which explains the commands, needs no page.
    for entry in fs::read_dir(&pages)? {
        let path = entry?.path();
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file.starts_with(&format!("{name}-help")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_completions_name_every_option() {
        let program = || {
            Command::new("prog")
                .about("Does it")
                .arg(clap::Arg::new("speed").long("speed").help("How fast"))
                .subcommand(Command::new("go").about("Goes"))
        };
        let folder = tempfile::tempdir().unwrap();
        let line = ["prog", "write-pages", folder.path().to_str().unwrap()];
        let matches = with_pages(program()).try_get_matches_from(line).unwrap();
        write_if_asked(&matches, program()).unwrap().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("man/prog.1").contains("How fast"));
        assert!(read("man/prog-go.1").contains("Goes"));
        for name in ["prog.bash", "_prog", "prog.fish"] {
            let text = read(&format!("completions/{name}"));
            assert!(text.contains("speed") && !text.contains(COMMAND), "{name}");
        }
        let matches = with_pages(program())
            .try_get_matches_from(["prog", "go"])
            .unwrap();
        assert!(write_if_asked(&matches, program()).is_none());
    }
}
