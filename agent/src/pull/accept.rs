//! What a client wants, by its Accept headers (pure), as Prometheus negotiates: the format of the highest `q` that there is; among
//! equals the first.

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Messages MetricFamily, each behind its length: with native histograms.
    Protobuf,
    /// OpenMetrics text.
    OpenMetrics,
    /// Prometheus' own text.
    Text,
}

impl Format {
    const ALL: [Self; 3] = [Self::Protobuf, Self::OpenMetrics, Self::Text];

    /// The header of an answer.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that a media type with its parameters means, if there is one.
    fn of(media: &str, parameters: &[(String, &str)]) -> Option<Self> {
        let is = |key: &str, expected: &str| parameters.iter().all(|(name, value)| name != key || *value == expected);
        match media.to_ascii_lowercase().as_str() {
            "application/vnd.google.protobuf" => {
                let fits = is("proto", "io.prometheus.client.MetricFamily") && is("encoding", "delimited");
                fits.then_some(Self::Protobuf)
            }
            "application/openmetrics-text" | "application/*" => is("version", "1.0.0").then_some(Self::OpenMetrics),
            "text/plain" | "text/*" | "*/*" => is("version", "0.0.4").then_some(Self::Text),
            _ => None,
        }
    }
}

/// The formats that there are, a line for each.
pub(super) fn available() -> String {
    Format::ALL.iter().map(|format| format!("{}\n", format.content_type())).collect()
}

/// The format for an Accept header, `None` when there is none that it allows. Without the header it is Prometheus' text.
pub(super) fn format(accept: &str) -> Option<Format> {
    if accept.trim().is_empty() {
        return Some(Format::Text);
    }
    let mut best: Option<(f64, Format)> = None;
    for (media, parameters, q) in choices(accept) {
        let Some(format) = Format::of(media, &parameters).filter(|_| q > 0.0) else { continue };
        if best.is_none_or(|(best, _)| q > best) {
            best = Some((q, format));
        }
    }
    best.map(|(_, format)| format)
}

/// Whether an Accept-Encoding header allows gzip.
pub(super) fn gzip(accept_encoding: &str) -> bool {
    let q = |name: &str| choices(accept_encoding).find(|(coding, ..)| coding.eq_ignore_ascii_case(name)).map(|(.., q)| q);
    q("gzip").or_else(|| q("*")).is_some_and(|q| q > 0.0)
}

/// The choices of a header: each with its parameters, and its `q`, which is 1 where there is none and 0 where it is no number.
fn choices(header: &str) -> impl Iterator<Item = (&str, Vec<(String, &str)>, f64)> {
    header.split(',').map(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('='));
        let parameters: Vec<(String, &str)> =
            parameters.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"'))).collect();
        let q = parameters.iter().find(|(key, _)| key == "q").map_or(1.0, |(_, q)| q.parse().unwrap_or(0.0));
        (name, parameters, q)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_wants_most_among_those_that_there_are() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;\
            version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let native = format!(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,{prometheus_3}"
        );
        for (accept, expected) in [
            ("", Some(Format::Text)),
            ("*/*", Some(Format::Text)),
            ("text/html, */*;q=0.1", Some(Format::Text)),
            ("text/plain", Some(Format::Text)),
            ("text/plain;version=1.0.0", None),
            (prometheus_3, Some(Format::OpenMetrics)),
            (&native, Some(Format::Protobuf)),
            ("application/openmetrics-text; version=0.0.1, text/plain;version=0.0.4;q=0.5", Some(Format::Text)),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", Some(Format::OpenMetrics)),
            ("application/vnd.google.protobuf; proto=other.Message", None),
            ("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text", None),
            ("text/plain;q=0", None),
            ("text/plain;q=many", None),
            ("application/json", None),
            ("text/plain;q=0.5,application/openmetrics-text;q=0.5", Some(Format::Text)),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (accept, expected) in
            [("", false), ("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("*", true), ("br", false)]
        {
            assert_eq!(gzip(accept), expected, "{accept}");
        }
        assert!(!gzip("gzip;q=0, *"), "what is named is not what else there is");
    }
}
