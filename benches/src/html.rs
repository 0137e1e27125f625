//! Reports as a single page: no script, no external resource, plots as SVG. The colours follow the
//! reader's choice of light or dark, and on a phone wide tables scroll by themselves.

use std::fmt::Write;

use crate::plot::{Bar, bars, histogram, rate_over_time};
use crate::report::Report;
use crate::sections::sections;
use crate::sentences::sentences;
use crate::table::{Section, column};
use crate::words::{escape, thousands};

/// Assembles a page.
fn page(
    title: &str,
    subtitle: &str,
    sentences: &[String],
    plots: &str,
    sections: &[Section],
) -> String {
    let mut body = String::new();
    for sentence in sentences {
        let _ = writeln!(body, "<p>{}</p>", escape(sentence));
    }
    let tables: String = sections.iter().map(table).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <div class=\"muted\">{subtitle}</div>\n<div class=\"verdict\">\n{body}</div>\n{how}\
         <div class=\"plots\">\n{plots}</div>\n{tables}{glossary}</body>\n</html>\n",
        title = escape(title),
        subtitle = escape(subtitle),
        css = include_str!("page.css"),
        how = include_str!("how_to_read.html"),
        glossary = include_str!("glossary.html"),
    )
}

/// Returns the page of a comparison.
#[must_use]
pub fn compared(title: &str, sentences: &[String], all: &[Bar], sections: &[Section]) -> String {
    let plot = figure(
        "The whole prover: what each machine makes undisturbed; in the second colour what \
         interruptions took of it; the line is the middle half of the samples",
        &bars(all, "leaves/s", 1.0),
    );
    page(title, "poet-bench compare", sentences, &plot, sections)
}

/// Returns the page of a report.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut plots = String::new();
    if let Some(run) = &report.endurance {
        plots += &figure(
            "The rate over time, interruptions included. The vertical axis need not begin at zero",
            &rate_over_time(&run.windows),
        );
        plots += &figure(
            "How long leaves took. Most take the same time; in the second colour those that were \
             interrupted",
            &histogram(&run.histogram, run.interruptions.threshold_ns),
        );
    }
    let cores: Vec<Bar> = report
        .cores
        .measured
        .iter()
        .filter_map(|core| {
            let value = core.hashes_per_s?;
            let used = if core.id == report.cores.best {
                ", used for the rest"
            } else {
                ""
            };
            Some(Bar {
                label: format!("core {}{used}", core.id),
                value,
                part: None,
                text: format!("{:.2}", value.median / 1e6),
            })
        })
        .collect();
    plots += &figure(
        "Cores: hashes one after another, undisturbed. The line is the middle half of what was \
         measured",
        &bars(&cores, "M hashes/s", 1e6),
    );
    let yardstick = report
        .yardstick
        .speed
        .map(|speed| (report.yardstick.name.clone(), speed));
    let backends = report.backends.iter().filter_map(|backend| {
        let used = if backend.chosen {
            ", used for the rest"
        } else {
            ""
        };
        Some((format!("{}{used}", backend.name), backend.one?))
    });
    let backends: Vec<Bar> = backends
        .chain(yardstick)
        .map(|(label, speed)| Bar {
            label,
            value: speed.hashes_per_s,
            part: None,
            text: format!("{:.2}", speed.hashes_per_s.median / 1e6),
        })
        .collect();
    plots += &figure(
        "Backends: hashes one after another, undisturbed",
        &bars(&backends, "M hashes/s", 1e6),
    );
    let verdict = &report.verdict;
    let title = format!(
        "{} ticks undisturbed, {} with interruptions: {}",
        thousands(verdict.undisturbed.ticks),
        thousands(verdict.with_interruptions.ticks),
        report.machine.model
    );
    let name = report
        .settings
        .label
        .as_ref()
        .or(report.machine.hostname.as_ref());
    let name = name.map_or_else(String::new, |name| format!("{name}, "));
    let subtitle = format!("{name}poet-bench {}, {}", report.version, report.started);
    let words: Vec<String> = sentences(report).iter().map(ToString::to_string).collect();
    page(&title, &subtitle, &words, &plots, &sections(report))
}

/// A plot with its title.
fn figure(title: &str, svg: &str) -> String {
    format!(
        "<figure><figcaption>{}</figcaption>{svg}</figure>\n",
        escape(title)
    )
}

fn table(section: &Section) -> String {
    let columns: Vec<(&str, bool)> = section.header.iter().map(|name| column(name)).collect();
    let class = |index: usize| match columns.get(index) {
        Some((_, false)) => "",
        _ => " class=\"left\"",
    };
    let title = escape(&section.title);
    let mut html = format!(
        "<h2>{title}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{title}\"><table>\n"
    );
    if columns.iter().any(|(name, _)| !name.is_empty()) {
        html.push_str("<tr>");
        for (index, (name, _)) in columns.iter().enumerate() {
            let _ = write!(html, "<th{}>{}</th>", class(index), escape(name));
        }
        html.push_str("</tr>\n");
    }
    for row in &section.rows {
        html.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(index), escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    for note in &section.notes {
        let _ = writeln!(html, "<div class=\"muted\">{}</div>", escape(note));
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn nothing_escapes() {
        assert_eq!(
            escape("<a href='x'>&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;"
        );
        let html = report(&sample());
        assert!(html.contains("A CPU &lt;of&gt; &quot;tests&quot; &amp; more"));
        assert!(!html.contains("<of>"));
    }

    #[test]
    fn page_has_all_and_loads_nothing() {
        let html = report(&sample());
        assert_eq!(html.matches("<svg").count(), 4);
        assert_eq!(html.matches("</svg>").count(), 4);
        assert!(html.contains("6,925 ticks undisturbed, 6,875 with interruptions"));
        for part in [
            "How to read this",
            "Glossary",
            "leaves (logarithmic)",
            ">M hashes/s<",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for foreign in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        for bad in ["NaN", "inf"] {
            assert!(!html.contains(&format!("\"{bad}")), "{bad}");
        }
        let mut short = sample();
        short.endurance = None;
        assert_eq!(report(&short.judged(&[])).matches("<svg").count(), 2);
    }
}
