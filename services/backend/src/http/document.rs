//! What every operation of the operators' interface has in common, added to its document in one place.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

const SCHEME: &str = "token";

/// The document with the token that every request needs, and the form of every error.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme(SCHEME, scheme);
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], _>(SCHEME, [])]);
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("401".to_owned(), error("The token is missing or wrong."));
            responses.insert("default".to_owned(), error("Any other error."));
        }
    }
    document
}

fn error(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    RefOr::T(ResponseBuilder::new().description(description).content("application/json", content).build())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn every_operation_is_in_the_document_with_the_token_it_needs_and_the_form_of_errors() {
        let document = serde_json::to_value(crate::http::openapi()).unwrap();
        assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
        assert_eq!(document["security"], json!([{ "token": [] }]));
        assert!(document["components"]["schemas"]["ErrorBody"].is_object());
        let query = |path: &str, method: &str| document["paths"][path][method]["parameters"].clone();
        let limit = query("/api/v1/vehicles", "get");
        assert_eq!(limit.as_array().unwrap().len(), 2);
        assert!(limit.as_array().unwrap().iter().all(|parameter| parameter["required"] != true), "{limit}");
        assert_eq!(query("/api/v1/bundles", "post")[0]["required"], true);
        let paths = document["paths"].as_object().unwrap();
        assert!(paths["/api/v1/bundles"]["post"].is_object() && paths["/api/v1/bundles"]["get"].is_object());
        let form = "/content/application~1json/schema/$ref";
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    let place = if path.contains(&format!("{{{name}}}")) { "path" } else { "query" };
                    assert_eq!(parameter["in"], place, "{method} {path} {name}");
                }
                for status in ["401", "default"] {
                    let schema = operation["responses"][status].pointer(form).and_then(Value::as_str);
                    assert_eq!(schema, Some("#/components/schemas/ErrorBody"), "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn the_form_of_what_the_driver_is_told_has_the_fields_that_are_read() {
        let document = serde_json::to_value(crate::http::openapi()).unwrap();
        let form = &document["components"]["schemas"]["PromptFacts"];
        let mut facts = serde_json::Map::new();
        for (name, about) in form["properties"].as_object().unwrap() {
            facts.insert(name.clone(), if about["type"] == "string" { json!("words") } else { json!(600) });
            assert!(form["required"].as_array().unwrap().contains(&json!(name)), "{name}");
        }
        serde_json::from_value::<pitstop_types::PromptFacts>(Value::Object(facts)).unwrap().check().unwrap();
    }
}
