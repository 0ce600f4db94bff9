//! Gemini's shapes. Whole replies are printed over several lines, and events end in CRLF: so the
//! vendor has it, and so clients of the gateway are used to it.

use super::{EchoReply, Reply, joined, listed, literal, streamed, whole};

const JSON: &str = "application/json; charset=UTF-8";
const EVENTS: &str = "text/event-stream";

impl Reply {
    /// `POST /v1beta/models/{model}:generateContent`
    pub(super) fn generated(&self) -> EchoReply {
        let object = self.generated_object(&literal(&self.text), true, self.tokens_out);
        whole(JSON, format!("{object}\n"))
    }

    /// `POST /v1beta/models/{model}:streamGenerateContent`, as events or as one JSON array.
    pub(super) fn generated_stream(&self, alt_sse: bool) -> EchoReply {
        let pieces = self.pieces();
        let last = pieces.len() - 1;
        let mut parts = Vec::with_capacity(pieces.len() + 1);
        for (index, piece) in pieces.iter().enumerate() {
            // Counts are cumulative.
            let tokens_out = (self.tokens_out * (index + 1)).div_ceil(pieces.len());
            let object = self.generated_object(piece, index == last, tokens_out);
            parts.push(if alt_sse {
                format!("data: {}\r\n\r\n", joined(&object))
            } else {
                format!("{}{object}\n", if index == 0 { "[" } else { ",\r\n" })
            });
        }
        if alt_sse {
            return streamed(EVENTS, parts);
        }
        parts.push("]\n".to_owned());
        streamed(JSON, parts)
    }

    fn generated_object(&self, text: &str, is_last: bool, tokens_out: usize) -> String {
        let Reply { id, model, tokens_in, .. } = self;
        let total = tokens_in + tokens_out;
        let finish = if is_last { "\n      \"finishReason\": \"STOP\"," } else { "" };
        format!(
            r#"{{
  "candidates": [
    {{
      "content": {{
        "parts": [
          {{
            "text": {text}
          }}
        ],
        "role": "model"
      }},{finish}
      "index": 0
    }}
  ],
  "usageMetadata": {{
    "promptTokenCount": {tokens_in},
    "candidatesTokenCount": {tokens_out},
    "totalTokenCount": {total},
    "promptTokensDetails": [
      {{
        "modality": "TEXT",
        "tokenCount": {tokens_in}
      }}
    ]
  }},
  "modelVersion": {model},
  "responseId": "{id}"
}}"#
        )
    }

    /// `POST /v1beta/models/{model}:embedContent`
    pub(super) fn embedded(&self) -> EchoReply {
        let values = listed(&self.vector(0));
        whole(JSON, format!("{{\n  \"embedding\": {{\n    \"values\": [{values}]\n  }}\n}}\n"))
    }

    /// `POST /v1beta/models/{model}:batchEmbedContents`
    pub(super) fn batch_embedded(&self) -> EchoReply {
        let list = self
            .vectors(|values| format!("\n    {{\n      \"values\": [{}]\n    }}", listed(values)));
        whole(JSON, format!("{{\n  \"embeddings\": [{list}\n  ]\n}}\n"))
    }
}
