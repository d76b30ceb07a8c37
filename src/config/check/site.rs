//! `[[site]]`: names, files and policies.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use super::Checker;
use super::host_name::host_name;
use crate::config::raw::{RawHsts, RawRoute, RawSite, Value};
use crate::config::{
    Files, Hsts, Place, Places, Site, SitePlaces, Symlinks, TlsPolicy, Upstream, range,
};

/// The sites that could be made, and what the configuration says about them.
pub(super) struct Sites {
    pub(super) sites: Vec<Arc<Site>>,
    pub(super) places: Places,
    pub(super) default: Option<usize>,
    /// The line of `default = true`.
    pub(super) default_line: Option<usize>,
    /// The names, each with the line that has it.
    pub(super) taken: HashMap<String, usize>,
}

impl Checker<'_> {
    /// The sites. When there is a problem with one, it is missing: the caller gives up anyway.
    pub(super) fn sites(
        &mut self,
        raw: Vec<Spanned<RawSite>>,
        inherited: &TlsPolicy,
        upstreams: &[Arc<Upstream>],
        may_be_none: bool,
    ) -> Sites {
        if raw.is_empty() && !may_be_none {
            self.problem(
                0..0,
                "there is no [[site]]",
                "add a line [[site]] and below it `names`, `certificate`, `key` and `root`",
            );
        }
        let mut sites = Sites {
            sites: Vec::with_capacity(raw.len()),
            places: Places::default(),
            default: None,
            default_line: None,
            taken: HashMap::new(),
        };
        for raw in raw {
            let header = raw.span();
            let raw = raw.into_inner();
            if let Some(flag) = raw.default.as_ref().filter(|flag| *flag.get_ref()) {
                let line = self.place(flag).line;
                match sites.default_line {
                    None => sites.default_line = Some(line),
                    Some(first) => self.problem(
                        flag.span(),
                        format!("the site in line {first} is the default already"),
                        "keep `default = true` on one site",
                    ),
                }
                sites.default = Some(sites.sites.len());
            }
            let tls = match &raw.tls {
                Some(tls) => self.tls_policy(tls.get_ref(), inherited),
                None => inherited.clone(),
            };
            let site = self.site(raw, header, tls, upstreams, &mut sites.taken);
            if let Some((site, places)) = site {
                sites.sites.push(Arc::new(site));
                sites.places.sites.push(places);
            }
        }
        sites
    }

    fn site(
        &mut self,
        raw: RawSite,
        header: std::ops::Range<usize>,
        mut tls: TlsPolicy,
        upstreams: &[Arc<Upstream>],
        taken: &mut HashMap<String, usize>,
    ) -> Option<(Site, SitePlaces)> {
        self.refuse_files_of_tunnel(&raw);
        let client_authorities = self.client_authorities_of(&raw);
        let is_tunnel = raw.tunnel.is_some();
        let tunnel = self.tunnel(raw.tunnel, raw.alpn, upstreams, "site");
        let access = self.access(raw.allow, raw.deny);
        let hsts = raw.hsts.map(|hsts| self.hsts(hsts.into_inner()));
        let names = self.names(raw.names, &header, taken);
        let mut path = |key, value, example| self.path(key, value, &header, example);
        let certificate = path(
            "certificate",
            raw.certificate,
            "certificate = \"chain.pem\"",
        );
        let key = path("key", raw.key, "key = \"key.pem\"");
        // A route for everything leaves nothing to a root.
        let needs_root = raw.root.is_some() || !raw.route.iter().any(is_everything);
        let root = match needs_root && !is_tunnel {
            true => path("root", raw.root, "root = \"site\""),
            false => None,
        };
        let root = root.and_then(|(path, span)| self.directory(path, span));
        let error_pages = self.error_pages(raw.error_pages, root.as_deref());
        if let Some(tunnel) = &tunnel {
            tls.alpn = Some(tunnel.alpn.clone());
        }
        let files = Files {
            root: root.unwrap_or_default(),
            index: self.index(raw.index),
            dotfiles: raw.dotfiles.is_some_and(Spanned::into_inner),
            symlinks: self.choice_or("symlinks", raw.symlinks, &SYMLINKS, Symlinks::default()),
            precompressed: self.precompressed(raw.precompressed),
            headers: self.header_rules(raw.headers),
            listing: raw.listing.is_some_and(Spanned::into_inner),
            error_pages,
        };
        let routes = self.routes(raw.route, &files, upstreams);
        let rate_limit = self.rate_limit(raw.rate_limit, scope_of(&names));
        let access_log = self.site_log(raw.access_log);
        let (names, name_places) = names?;
        let (certificate_file, certificate) = certificate?;
        let (key_file, key) = key?;
        let site = Site {
            names,
            certificate_file,
            key_file,
            tls,
            hsts,
            files,
            routes,
            tunnel: tunnel.map(|tunnel| tunnel.upstream),
            access,
            access_log,
            rate_limit,
        };
        let places = SitePlaces {
            certificate: self.source.place(certificate),
            key: self.source.place(key),
            client_authorities,
            names: name_places,
        };
        Some((site, places))
    }

    /// Where the authorities of a site's clients are named: in its own table, or in `[tls]`.
    fn client_authorities_of(&self, raw: &RawSite) -> Option<Place> {
        let tls = raw.tls.as_ref().map(Spanned::get_ref);
        let own = tls.and_then(|tls| tls.client_ca.as_ref());
        own.map(|ca| self.place(ca))
            .or_else(|| self.client_authorities.clone())
    }

    /// A tunnel serves no files: settings for them would be a misunderstanding.
    fn refuse_files_of_tunnel(&mut self, raw: &RawSite) {
        if raw.tunnel.is_none() {
            return;
        }
        let root = raw.root.as_ref().map(|value| ("root", value.span()));
        let index = raw.index.as_ref().map(|value| ("index", value.span()));
        let hsts = raw.hsts.as_ref().map(|value| ("hsts", value.span()));
        let route = raw.route.first().map(|value| ("route", value.span()));
        // There is no request to answer with 403; a listener has lists of its own.
        let allow = raw.allow.as_ref().map(|value| ("allow", value.span()));
        let deny = raw.deny.as_ref().map(|value| ("deny", value.span()));
        let rate_limit = raw.rate_limit.as_ref();
        let rate_limit = rate_limit.map(|value| ("rate_limit", value.span()));
        let log = raw.access_log.as_ref();
        let log = log.map(|value| ("access_log", value.span()));
        let all = [root, index, hsts, route, allow, deny, rate_limit, log];
        for (key, span) in all.into_iter().flatten() {
            self.problem(
                span,
                format!("`{key}` on a site whose connections go through a tunnel"),
                format!("remove `{key}`, or `tunnel`"),
            );
        }
    }

    pub(super) fn names(
        &mut self,
        raw: Value<Vec<Spanned<String>>>,
        header: &std::ops::Range<usize>,
        taken: &mut HashMap<String, usize>,
    ) -> Option<(Vec<String>, Vec<Place>)> {
        let span = raw.as_ref().map_or_else(|| header.clone(), Spanned::span);
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        if raw.is_empty() {
            self.problem(
                span,
                "this table has no `names`",
                "add names = [\"example.org\"]; a site for all other names has one too, and \
                 `default = true`",
            );
            return None;
        }
        let mut names = Vec::with_capacity(raw.len());
        for written in &raw {
            let place = self.place(written);
            match host_name(written.get_ref()) {
                Err((message, remedy)) => self.problem(written.span(), message, remedy),
                Ok(name) => match taken.get(&name) {
                    Some(line) => self.problem(
                        written.span(),
                        format!("{:?} is a name in line {line} already", written.get_ref()),
                        "a name belongs to one site: remove it from the other",
                    ),
                    None => {
                        taken.insert(name.clone(), place.line);
                        names.push((name, place));
                    }
                },
            }
        }
        Some(names.into_iter().unzip())
    }

    fn path(
        &mut self,
        key: &str,
        value: Value<String>,
        header: &std::ops::Range<usize>,
        example: &str,
    ) -> Option<(PathBuf, std::ops::Range<usize>)> {
        let Some(value) = value else {
            self.problem(
                header.clone(),
                format!("this [[site]] has no `{key}`"),
                format!("add {example}; a relative path starts at this file's directory"),
            );
            return None;
        };
        if value.get_ref().is_empty() || value.get_ref().contains('\0') {
            self.problem(
                value.span(),
                format!("`{key}` is no path"),
                format!("write one, as {example}"),
            );
            return None;
        }
        Some((self.base.join(value.get_ref()), value.span()))
    }

    /// A root is looked at here, where a mistake can still be told: when it is missing, every
    /// request would be answered with 404.
    pub(super) fn directory(
        &mut self,
        path: PathBuf,
        span: std::ops::Range<usize>,
    ) -> Option<PathBuf> {
        // Quoted and escaped: a path may hold what would steer a terminal.
        let shown = format!("{path:?}");
        let (message, remedy) = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Some(path),
            Ok(_) => (
                format!("the root {shown} is not a directory"),
                "name the directory that holds the files".to_owned(),
            ),
            Err(error) => (
                format!("the root {shown} cannot be served: {error}"),
                if error.kind() == ErrorKind::NotFound {
                    format!("create it: mkdir -p {shown}")
                } else if error.kind() == ErrorKind::PermissionDenied {
                    "let this user search each directory of the path (chmod +x)".to_owned()
                } else {
                    "name the directory that holds the files".to_owned()
                },
            ),
        };
        self.problem(span, message, remedy);
        None
    }

    fn index(&mut self, raw: Value<Vec<Spanned<String>>>) -> Vec<String> {
        let Some(raw) = raw else {
            return Files::index_default();
        };
        let mut index = Vec::new();
        for name in raw.into_inner() {
            let written = name.get_ref().as_str();
            if matches!(written, "" | "." | "..") || written.contains(['/', '\0']) {
                self.problem(
                    name.span(),
                    format!("{written:?} is no file name"),
                    "an index is the name of a file in the directory itself, as \"index.html\"",
                );
                continue;
            }
            index.push(name.into_inner());
        }
        index
    }

    fn hsts(&mut self, raw: RawHsts) -> Hsts {
        let default = Hsts::default();
        let preload_written = raw.preload.as_ref().map(Spanned::span);
        let hsts = Hsts {
            max_age_s: self.number_or(
                "max_age_s",
                raw.max_age_s,
                &range::HSTS_MAX_AGE_S,
                default.max_age_s,
            ),
            include_subdomains: raw
                .include_subdomains
                .map_or(default.include_subdomains, Spanned::into_inner),
            preload: raw.preload.map_or(default.preload, Spanned::into_inner),
        };
        let is_listable = hsts.include_subdomains && hsts.max_age_s >= PRELOAD_MAX_AGE_S_MIN;
        if let (Some(span), true, false) = (preload_written, hsts.preload, is_listable) {
            self.warning(
                span,
                "browsers' preload lists will not take this site",
                format!(
                    "they want include_subdomains = true and max_age_s of at least \
                     {PRELOAD_MAX_AGE_S_MIN} (https://hstspreload.org)"
                ),
            );
        }
        hsts
    }
}

/// What a site's own rate limit is called by: its first name.
fn scope_of(names: &Option<(Vec<String>, Vec<Place>)>) -> &str {
    let first = names.as_ref().and_then(|(names, _)| names.first());
    first.map_or("", String::as_str)
}

fn is_everything(route: &Spanned<RawRoute>) -> bool {
    let prefix = route.get_ref().prefix.as_ref();
    prefix.is_some_and(|prefix| prefix.get_ref() == "/")
}

const SYMLINKS: [(&str, Symlinks); 3] = [
    ("deny", Symlinks::Deny),
    ("beneath", Symlinks::Beneath),
    ("follow", Symlinks::Follow),
];

/// One year, the lists' own rule.
const PRELOAD_MAX_AGE_S_MIN: u64 = 31_536_000;
