//! One plain GET, as the HTTP port of a node answers it.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};

use crate::env::net;

/// What is read of an answer: a page of metrics is some 20 KiB.
const MOST: u64 = 1 << 20;

/// Status and body.
pub async fn get(address: &str, path: &str, patience: Duration) -> io::Result<(u16, String)> {
    let asked = async {
        let mut socket = net::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(MOST).read_to_end(&mut answer).await?;
        Ok(read(&String::from_utf8_lossy(&answer)))
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
    time::timeout(patience, asked).await.map_err(|_| late())?
}

pub(crate) fn read(answer: &str) -> (u16, String) {
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_code_and_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nno leader\n";
        assert_eq!(read(answer), (503, "no leader\n".to_owned()));
        assert_eq!(read(""), (0, String::new()));
    }
}
