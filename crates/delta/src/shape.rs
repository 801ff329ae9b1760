//! stub
#![allow(missing_docs)]
use crate::{Error,filter::Filter};
pub struct Table{pub relation:String,pub schema:Option<String>,pub name:String,pub columns:Option<Vec<String>>,pub filter:Option<Filter>}
pub struct Shape{pub tables:Vec<Table>,pub params:Vec<serde_json::Value>,pub int8_as_string:bool}
impl Shape{pub fn parse(_j:&str)->Result<Shape,Error>{Ok(Shape{tables:vec![],params:vec![],int8_as_string:false})}}
