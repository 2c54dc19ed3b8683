mod expr;
