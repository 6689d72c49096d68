//! One plain HTTP request, as a probe or a scraper sends it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

/// An endpoint that does not wait for anything answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status code and body.
pub fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    get_within(address, path, PATIENCE)
}

pub fn get_within(address: &str, path: &str, patience: Duration) -> Result<(u16, String), String> {
    request(address, "GET", path, patience)
}

/// A request without a body.
pub fn send(address: &str, method: &str, path: &str) -> Result<(u16, String), String> {
    request(address, method, path, PATIENCE)
}

fn request(
    address: &str,
    method: &str,
    path: &str,
    patience: Duration,
) -> Result<(u16, String), String> {
    let answer = ask(address, method, path, patience)
        .map_err(|error| format!("{address}{path}: {error}"))?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| format!("{address}{path}: no HTTP answer: {answer:?}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code, body.to_owned()))
}

fn ask(address: &str, method: &str, path: &str, patience: Duration) -> std::io::Result<String> {
    let mut socket = connect(address)?;
    socket.set_read_timeout(Some(patience))?;
    write!(socket, "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// To the first address of the name that accepts.
pub fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other(format!("{address} resolves to nothing"));
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
