class Driver {
    // As driver.js. Names are written in full: a solution may have classes of these names.
    static java.io.PrintStream told = java.lang.System.out;
    static void tell(java.lang.String kind, java.lang.Object value) {
        told.print(kind + (value == null ? "" : value) + "\n");
        told.flush();
    }
    static java.lang.String text(java.lang.String text) {
        java.lang.StringBuilder found = new java.lang.StringBuilder("\"");
        for (char letter : text.toCharArray()) {
            if (letter == '"' || letter == '\\') found.append('\\').append(letter);
            else if (letter < 32 || letter > 126) found.append(java.lang.String.format("\\u%04x", (int) letter));
            else found.append(letter);
        }
        return found.append('"').toString();
    }
    static java.lang.String plain(java.lang.Object value, int depth) {
        if (depth > 60) return "{\"x\":\"too deep\"}";
        if (value == null) return "null";
        if (value instanceof java.lang.Boolean || value instanceof java.lang.Long
            || value instanceof java.lang.Integer || value instanceof java.lang.Short
            || value instanceof java.lang.Byte) return value.toString();
        if (value instanceof java.math.BigInteger) return value.toString();
        if (value instanceof java.lang.Float) return "{\"s\":" + text(value.toString()) + "}";
        if (value instanceof java.lang.Double) return "{\"f\":" + text(value.toString()) + "}";
        if (value instanceof java.lang.String || value instanceof java.lang.Character)
            return text(value.toString());
        java.util.List<java.lang.String> parts = new java.util.ArrayList<>();
        if (value instanceof java.util.Optional) {
            ((java.util.Optional<?>) value).ifPresent(item -> parts.add(plain(item, depth + 1)));
            return "{\"p\":[" + java.lang.String.join(",", parts) + "]}";
        }
        if (value instanceof java.util.Map) {
            for (java.util.Map.Entry<?, ?> e : ((java.util.Map<?, ?>) value).entrySet())
                parts.add("[" + plain(e.getKey(), depth + 1) + "," + plain(e.getValue(), depth + 1) + "]");
            return "{\"o\":[" + java.lang.String.join(",", parts) + "]}";
        }
        if (value instanceof java.util.Collection) {
            for (java.lang.Object item : (java.util.Collection<?>) value) parts.add(plain(item, depth + 1));
            return "[" + java.lang.String.join(",", parts) + "]";
        }
        if (value.getClass().isArray()) {
            for (int i = 0; i < java.lang.reflect.Array.getLength(value); i++)
                parts.add(plain(java.lang.reflect.Array.get(value, i), depth + 1));
            return "[" + java.lang.String.join(",", parts) + "]";
        }
        return "{\"x\":" + text(value.getClass().getName()) + "}";
    }
    interface Asked { java.lang.Object call() throws java.lang.Throwable; }
    public static void main(java.lang.String[] none) {
        java.lang.System.setOut(new java.io.PrintStream(java.io.OutputStream.nullOutputStream()));
        java.lang.System.setErr(new java.io.PrintStream(java.io.OutputStream.nullOutputStream()));
        tell("S", null);
        try {
            for (Asked asked : new Asked[] {
/*CALLS*/
            }) tell("R", plain(asked.call(), 0));
        } catch (java.lang.Throwable error) {
            tell("E", text(java.lang.String.valueOf(error)));
        }
        java.lang.Runtime.getRuntime().halt(0);
    }
}
