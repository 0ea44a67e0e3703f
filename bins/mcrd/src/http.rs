//! What `mcrd run` serves over HTTP: as the command line says, else as the configuration says.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
};

use mcr_proto::{
    config::HttpConfig,
    message::{Http, Secret},
};

use crate::{args::RunArgs, exit::Failure};

/// Shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;

pub(crate) fn options(
    args: &RunArgs,
    config: Option<&HttpConfig>,
) -> Result<Option<(SocketAddr, Http)>, Failure> {
    let Some(listen) = args.http.or(config.map(|http| http.listen)) else {
        return match args.http_token_file.is_some() || !args.http_name.is_empty() {
            true => Err(Failure::usage(
                "--http-token-file and --http-name say how to serve HTTP; say where with --http",
            )),
            false => Ok(None),
        };
    };
    let mut names = args.http_name.clone();
    names.extend(config.into_iter().flat_map(|http| http.names.iter().cloned()));
    // A host without a name is reached by its addresses.
    names.extend(nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
    let of_config = config.and_then(|http| http.token_file.as_deref()).map(Path::new);
    let token = args.http_token_file.as_deref().or(of_config).map(token).transpose()?;
    Ok(Some((listen, Http { names, token })))
}

/// What a client that changes something must show: the file's text without the white space around it.
fn token(path: &Path) -> Result<Secret, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| {
        let message = format!("{shown}: cannot read the token: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(message),
            _ => Failure::io(message, &error),
        }
    };
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.mode() & 0o004 != 0 {
        return Err(Failure::usage(format!("{shown}: everyone can read this token; chmod o-r {shown}")));
    }
    let mut text = String::new();
    file.by_ref().take(TOKEN_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    let fits = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
    if !fits || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!(
            "{shown}: a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and signs, and no space; \
             `openssl rand -hex 32` makes one"
        )));
    }
    Ok(Secret(token.to_owned()))
}
