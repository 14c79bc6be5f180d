//! `/openapi.json`: printed from the table of routes and the tables of fields, so it cannot say anything else than they do.

use axum::Json;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::{Method, ROUTES, Route};

/// The route.
pub static ROUTE: Route = Route {
    path: "/openapi.json",
    method: Method::Get,
    about: "this document",
    keyless: false,
    body: None,
    serve: || get(async || Json(document())),
};

/// The document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas: Map<String, Value> = Map::new();
    for r in ROUTES {
        let path = paths.entry(r.path).or_insert_with(|| json!({}));
        let method = if r.method == Method::Get { "get" } else { "post" };
        path[method] = operation(r);
        if let Some(shape) = r.body {
            schemas.insert(shape.name.into(), shape.schema());
        }
    }
    schemas.insert(
        "Error".into(),
        json!({"type": "object", "required": ["error"], "properties": {"error": {
            "type": "object", "required": ["message", "type", "code"], "properties": {
                "message": {"type": "string"}, "type": {"type": "string"}, "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        }}}),
    );
    json!({
        "openapi": "3.1.0",
        "info": {"title": "tamp", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(r: &Route) -> Value {
    let error = json!({
        "description": "a refusal",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    });
    let mut v = json!({
        "summary": r.about,
        "security": if r.keyless { json!([]) } else { json!([{"key": []}]) },
        "responses": {"200": {"description": "done"}, "default": error},
    });
    if let Some(shape) = r.body {
        let schema = json!({"$ref": format!("#/components/schemas/{}", shape.name)});
        v["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    let names = r.path.split('{').skip(1).filter_map(|p| p.split('}').next());
    let parameters: Vec<Value> = names
        .map(|n| json!({"name": n, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if !parameters.is_empty() {
        v["parameters"] = parameters.into();
    }
    v
}
