<%--
  A table of names in a MySQL server: shown, and with a POST of `name` and `level` added to. The server is found by
  MYSQL_SERVICE_HOST and MYSQL_SERVICE_PORT, as Kubernetes sets them, else by the name `mysql`.
--%>
<%@ page contentType="text/html; charset=UTF-8" session="false" %>
<%@ page import="java.sql.*, java.util.Optional" %>
<%!
    private static String variable(String name, String otherwise) {
        return Optional.ofNullable(System.getenv(name)).filter(value -> !value.isEmpty()).orElse(otherwise);
    }

    private static Connection connect() throws SQLException {
        String host = variable("MYSQL_SERVICE_HOST", "mysql");
        String url = "jdbc:mariadb://" + host + ":" + variable("MYSQL_SERVICE_PORT", "3306")
            + "/demo?createDatabaseIfNotExist=true&connectTimeout=5000";
        return DriverManager.getConnection(url, "root", variable("MYSQL_ROOT_PASSWORD", ""));
    }

    private static String escaped(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\"", "&quot;");
    }
%>
<%
    request.setCharacterEncoding("UTF-8");
    StringBuilder rows = new StringBuilder();
    String failure = null;
    try {
        // Not found by itself: the driver lies above the page's class loader.
        Class.forName("org.mariadb.jdbc.Driver");
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE IF NOT EXISTS users (id INT AUTO_INCREMENT PRIMARY KEY,"
                + " name VARCHAR(100) NOT NULL, level INT NOT NULL) CHARACTER SET utf8mb4");
            if (request.getMethod().equals("POST")) {
                String name = request.getParameter("name"), level = request.getParameter("level");
                if (name == null || name.isEmpty() || level == null || !level.matches("[0-9]{1,9}")) {
                    response.sendError(400, "a name and a level, which is a number, are needed");
                    return;
                }
                try (PreparedStatement add = connection.prepareStatement("INSERT INTO users (name, level) VALUES (?, ?)")) {
                    add.setString(1, name);
                    add.setInt(2, Integer.parseInt(level));
                    add.executeUpdate();
                }
                response.setStatus(303);
                response.setHeader("Location", request.getContextPath() + "/");
                return;
            }
            try (ResultSet users = statement.executeQuery("SELECT name, level FROM users ORDER BY id")) {
                while (users.next()) {
                    rows.append("<tr><td>").append(escaped(users.getString(1))).append("</td><td>")
                        .append(users.getInt(2)).append("</td></tr>\n");
                }
            }
        }
    } catch (SQLException error) {
        response.setStatus(503);
        failure = error.getMessage();
    }
%>
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Tomcat and MySQL</title></head>
<body>
<h1>Tomcat and MySQL</h1>
<% if (failure != null) { %>
<p>The database does not answer: <%= escaped(failure) %></p>
<% } else { %>
<table>
<tr><th>Name</th><th>Level</th></tr>
<%= rows %></table>
<form method="post"><input name="name" required> <input name="level" type="number" min="0" required> <button>Add</button></form>
<% } %>
</body>
</html>
