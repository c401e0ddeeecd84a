//! Unary gRPC calls over a Unix socket.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use oci_tests::check::{Res, fail};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::wire::{Fields, Message};

/// The codes of gRPC that the tests look for.
pub mod code {
    /// No error.
    pub const OK: i32 = 0;
    /// The object does not exist.
    pub const NOT_FOUND: i32 = 5;
    /// It exists already.
    pub const ALREADY_EXISTS: i32 = 6;
    /// Its state does not allow it.
    pub const FAILED_PRECONDITION: i32 = 9;
}

/// How a call ended.
#[derive(Debug)]
pub struct Reply {
    /// The gRPC code.
    pub code: i32,
    /// Its text.
    pub text: String,
    /// The answer.
    pub fields: Fields,
}

impl Reply {
    /// The answer of a call that must have worked.
    pub fn ok(self, what: &str) -> Res<Fields> {
        if self.code != code::OK {
            return fail(format!("{what}: code {}: {}", self.code, self.text));
        }
        Ok(self.fields)
    }
}

/// A connection to a server.
pub struct Channel {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    headers: Vec<(String, String)>,
}

impl Channel {
    /// Connects; every call carries these headers.
    pub fn connect(socket: &Path, headers: &[(&str, &str)]) -> Res<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
            let (sender, connection) =
                h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok::<_, String>(sender)
        });
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        match sender {
            Ok(sender) => Ok(Self { runtime, sender, headers }),
            Err(error) => fail(format!("connect to {}: {error}", socket.display())),
        }
    }

    /// Calls a method, as `/package.Service/Method`.
    pub fn call(&self, method: &str, message: &Message, limit: Duration) -> Res<Reply> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, self.exchange(method, message)).await });
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => fail(format!("{method}: {error}")),
            Err(_) => fail(format!("{method}: no answer within {limit:?}")),
        }
    }

    async fn exchange(&self, method: &str, message: &Message) -> Result<Reply, h2::Error> {
        let mut request = http::Request::builder()
            .method("POST")
            .uri(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (key, value) in &self.headers {
            request = request.header(key, value);
        }
        let request = request.body(()).expect("the tests' methods and headers are plain words");
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.bytes().len() as u32);
        frame.put_slice(message.bytes());
        stream.send_data(frame.freeze(), true)?;
        let response = response.await?;
        let first = response.headers().clone();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            bytes.extend_from_slice(&chunk);
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or(first);
        let text = |key: &str| {
            let value = trailers.get(key).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Ok(Reply {
            code: text("grpc-status").parse().unwrap_or(-1),
            text: text("grpc-message"),
            fields: Fields::parse(bytes.get(5..).unwrap_or_default()),
        })
    }
}
