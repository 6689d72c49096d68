//! Reads a page of metrics as a scraper would, and says what is wrong with it.

use std::collections::BTreeMap;

/// One metric of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    pub unit: String,
    pub help: String,
    /// Every sample as (name with labels, value).
    pub samples: Vec<(String, String)>,
}

/// The metrics by name; a panic names the line that no scraper would take.
pub fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let body = page.strip_suffix("# EOF\n").expect("the page is whole");
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, text) =
                (words.next().unwrap(), words.next().expect(line), words.next().expect(line));
            let family = families.entry(name.to_owned()).or_default();
            let place = match word {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                other => panic!("{other} in {line:?}"),
            };
            assert!(place.is_empty(), "said twice: {line}");
            *place = text.to_owned();
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect(line);
        value.parse::<f64>().expect(line);
        let name = sample.split('{').next().unwrap();
        let family = families
            .iter_mut()
            .find(|(base, family)| suffixes(&family.kind).any(|end| name == format!("{base}{end}")))
            .unwrap_or_else(|| panic!("a sample without a type: {line}"));
        let seen = family.1.samples.iter().any(|(known, _)| known == sample);
        assert!(!seen, "a sample stands twice: {line}");
        family.1.samples.push((sample.to_owned(), value.to_owned()));
    }
    families
}

fn suffixes(kind: &str) -> impl Iterator<Item = &'static str> {
    let suffixes: &[&str] = match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_sum", "_count"],
        "info" => &["_info"],
        other => panic!("no type {other:?}"),
    };
    suffixes.iter().copied()
}
