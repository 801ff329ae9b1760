//! stub
#![allow(missing_docs)]
use crate::Error;
use std::collections::BTreeSet;
#[derive(Debug,Clone,Copy,PartialEq,Eq)] pub enum Comparison{Eq,Ne,Lt,Le,Gt,Ge}
#[derive(Debug,Clone,Copy,PartialEq,Eq)] pub enum Containment{Contains,ContainedBy,Overlaps,HasKey}
#[derive(Debug,Clone,Copy,PartialEq,Eq)] pub enum JsonOp{Get,GetText,Path,PathText}
#[derive(Debug,Clone,Copy,PartialEq,Eq)] pub enum Function{Lower,Upper,Length,Coalesce}
#[derive(Debug,Clone,PartialEq)] pub enum Const{Null,Bool(bool),Number(String),Text(String),Param(usize),Json(serde_json::Value),Cast{value:Box<Const>,to:String},Setting{name:String,missing_ok:bool},CurrentUser}
#[derive(Debug,Clone,PartialEq)] pub enum Operand{Column(String),Const(Const),Json{op:JsonOp,base:Box<Operand>,path:Const},Call{function:Function,args:Vec<Operand>}}
#[derive(Debug,Clone,PartialEq)] pub enum Filter{And(Vec<Filter>),Or(Vec<Filter>),Not(Box<Filter>),Compare{op:Comparison,left:Operand,right:Operand},IsNull{operand:Operand,negated:bool},IsBool{operand:Operand,value:bool,negated:bool},IsDistinct{left:Operand,right:Operand,negated:bool},In{operand:Operand,list:Vec<Operand>,negated:bool},Between{operand:Operand,low:Operand,high:Operand,negated:bool},Like{operand:Operand,pattern:Operand,insensitive:bool,negated:bool},EqAny{operand:Operand,array:Const},Contains{op:Containment,left:Operand,right:Operand},Bool(Operand)}
pub trait Constants{fn param(&self,n:usize)->Option<&serde_json::Value>;fn setting(&self,name:&str,missing_ok:bool)->Result<Option<String>,Error>;fn current_user(&self)->String;}
impl Filter{pub fn columns(&self)->BTreeSet<&str>{BTreeSet::new()} pub fn fold(self,_e:&impl Constants)->Result<Filter,Error>{Ok(self)}}
